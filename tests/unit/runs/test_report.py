"""Reports: numbers against loops that are obviously right, files on the kept results."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from icnn_rl.runs.errors import UserError
from icnn_rl.runs.evaluate import EvalRow, write_evaluations
from icnn_rl.runs.plot import shared_steps
from icnn_rl.runs.report import (
    find_runs,
    improvement,
    interquartile_mean,
    interval,
    read_reported,
    read_runs,
    write_report,
    write_table,
)
from icnn_rl.runs.train import write_config

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"
pytest.importorskip("scipy", reason="needs the extra report")


def _rows(text, title):
    """Cells of the table under a heading, without its head."""
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.fixture
def make_run(make_config, tmp_path):
    """make_run("td3", 3, 10.0): a finished run of seed 3 that ends at 10."""

    def make(agent, seed, mean, env="InvertedPendulum-v5", **given):
        constraint = given.pop("constraint", None)
        folder = tmp_path / "runs" / f"{env}-{agent}-s{seed}"
        folder = folder if constraint is None else folder.with_name(f"{folder.name}-constrained")
        folder.mkdir(parents=True)
        config = dataclasses.replace(make_config(agent, seed=seed, **given), env=env, constraint=constraint)
        write_config(config, folder)
        write_evaluations(folder / "eval.csv", [EvalRow(step, mean * step / 80, 0.5, 5, 9.0) for step in (40, 80)])
        final = EvalRow(80, mean, 1.0, 5, 10.0)._asdict() | {"agent": agent, "returns": []}
        (folder / "evaluation_model.json").write_text(json.dumps(final))
        return folder

    return make


# numbers


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11])
def test_interquartile_mean_is_that_of_the_sorted_middle(n):
    scores = np.random.default_rng(n).normal(size=n)
    cut = n // 4
    assert interquartile_mean(scores) == pytest.approx(np.sort(scores)[cut : n - cut].mean())
    assert interquartile_mean(np.stack([scores, -scores])) == pytest.approx(
        [float(interquartile_mean(scores)), -float(interquartile_mean(scores))]
    )


def test_improvement_counts_pairs():
    draw = np.random.default_rng(0)
    x = [draw.integers(0, 4, n).astype(float) for n in (3, 5)]
    y = [draw.integers(0, 4, n).astype(float) for n in (4, 2)]
    pairs = [
        [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(*task)]
        for task in zip(x, y, strict=True)
    ]
    expected = np.mean([np.mean(task) for task in pairs])
    assert improvement(x, y) == pytest.approx(expected)
    stacked = improvement(*([np.stack([part, part]) for part in parts] for parts in (x, y)))
    assert stacked == pytest.approx([expected, expected])


def test_the_interval_is_that_of_a_bootstrap_by_hand():
    scores = np.random.default_rng(1).normal(10.0, 3.0, size=12)
    draw = np.random.default_rng(2)
    means = [draw.choice(scores, size=12).mean() for _ in range(20_000)]
    assert interval([scores], np.mean, 20_000) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.06)


def better(x, y, axis=-1):
    return improvement([x], [y])


def test_the_interval_of_an_improvement_draws_every_group_from_itself():
    draw = np.random.default_rng(3)
    x, y = draw.normal(0.5, 1.0, size=8), draw.normal(0.0, 1.0, size=6)
    shares = [np.mean(draw.choice(x, size=8)[:, None] > draw.choice(y, size=6)[None, :]) for _ in range(20_000)]
    assert interval([x, y], better, 20_000) == pytest.approx(np.percentile(shares, [2.5, 97.5]), abs=0.03)


def test_the_interval_of_an_interquartile_mean_is_that_of_a_bootstrap_by_hand():
    scores = np.random.default_rng(4).normal(size=10)
    draw = np.random.default_rng(5)
    middles = [np.sort(draw.choice(scores, size=10))[2:-2].mean() for _ in range(20_000)]
    expected = np.percentile(middles, [2.5, 97.5])
    assert interval([scores], interquartile_mean, 20_000) == pytest.approx(expected, abs=0.03)


def test_the_interval_over_tasks_draws_every_task_from_itself():
    draw = np.random.default_rng(6)
    x, y = ([draw.normal(mean, 1.0, size=n) for n in (5, 7)] for mean in (0.4, 0.0))
    means = [
        np.mean(
            [
                np.mean(draw.choice(a, size=len(a))[:, None] > draw.choice(b, size=len(b))[None, :])
                for a, b in zip(x, y, strict=True)
            ]
        )
        for _ in range(10_000)
    ]
    found = interval([*x, *y], lambda *parts, axis: improvement(parts[:2], parts[2:]), 10_000)
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.03)


def test_a_single_run_has_no_interval():
    assert interval([np.array([1.0])], np.mean, 100) is None
    assert interval([np.array([1.0, 2.0]), np.array([1.0])], better, 100) is None


def test_equal_runs_have_an_interval_of_no_width():
    assert interval([np.full(3, 1000.0)], np.mean, 100) == (1000.0, 1000.0)


def test_shared_steps():
    steps, means = shared_steps(
        [[EvalRow(s, s * k, 0, 1, 1) for s in given] for k, given in ((1, (1, 2, 3)), (2, (2, 3)))]
    )
    assert steps.tolist() == [2, 3]
    assert means.tolist() == [[2, 3], [4, 6]]


# the kept results


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    runs, unfinished = read_runs([RESULTS / "evaluations.csv"])
    assert not unfinished
    text = write_report(runs, unfinished, out, {"paper": {"HalfCheetah-v5": 3823.0}}, 500)
    return out, text, runs


def _kept_rows(kind):
    with (RESULTS / "evaluations.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["kind"] == kind]


def test_the_table_holds_every_group(kept):
    _, text, runs = kept
    rows = {(row[0], row[1], int(row[2])): row for row in _rows(text, "Return after training")}
    assert sum(int(row[4]) for row in rows.values()) == len(runs)
    settings = yaml.safe_load((RESULTS / "evaluations.yml").read_text())
    means = defaultdict(list)
    for final in _kept_rows("final"):
        config = settings[final["run"]]
        means[config["env"], config["agent"], config["timesteps"]].append(float(final["mean"]))
    assert means.keys() == rows.keys()
    for key, row in rows.items():
        assert int(row[4]) == len(means[key])
        assert float(row[5].split()[0]) == pytest.approx(np.mean(means[key]), abs=0.05)
        assert ("[" in row[5]) == (len(means[key]) > 1)
        assert row[-1] == ("3823" if key[0] == "HalfCheetah-v5" else "-")
    assert "reported: paper" in text
    assert "A single run has no interval" in text
    assert "figures from elsewhere, not measured here" in text


def test_the_page_is_the_report_of_its_table(tmp_path):
    page = (RESULTS.parent / "results.md").read_text()
    runs, unfinished = read_runs([RESULTS / "evaluations.csv"])
    command = re.search("Written by `(.*)`", page)[1]
    reported = read_reported(RESULTS / "reported.yml")
    assert write_report(runs, unfinished, tmp_path / "results.md", reported, command=command) == page
    for name in ("evaluations.csv", "evaluations.yml"):
        assert (tmp_path / "results" / name).read_text() == (RESULTS / name).read_text()
    pictures = re.findall(r"]\((.*\.svg)\)", page)
    assert {Path(picture).name for picture in pictures} == {path.name for path in RESULTS.glob("curves-*")}


def test_the_ablation_page_holds_the_table_of_its_runs():
    from benchmarks.ablation import ENVS, VARIANTS, table

    kept = RESULTS / "ablations" / "one-at-a-time.csv"
    assert {run.folder.parent.name for run in read_runs([kept])[0]} <= set(VARIANTS)
    assert table(kept, list(VARIANTS), ENVS) in (RESULTS.parent / "ablations.md").read_text()


def test_the_page_on_constraints_holds_the_table_of_its_runs():
    from benchmarks.constraints.learning_table import table

    runs, _ = read_runs([RESULTS / "constrained.csv"])
    assert table(runs) in (RESULTS.parent / "results-constraints.md").read_text()


def test_the_supervised_pages_hold_the_numbers_that_were_kept():
    from benchmarks.supervised_table import read, table

    runs = read(RESULTS / "supervised" / "numbers.csv")
    assert "| tables-iris | 3 | rmse_icnn | 0.67" in table(runs)
    page = (RESULTS.parent / "results-supervised-icnn.md").read_text()
    for name in ("iris", "wine", "breast_cancer", "diabetes", "faces16"):
        cells = []
        for imputer in ("icnn", "knn", "iterative", "mean"):
            errors = [float(runs[f"tables-{name}-s{seed}"][f"rmse_{imputer}"]) for seed in range(3)]
            cells.append(f"{np.mean(errors):.3f}" + f" ± {np.std(errors, ddof=1):.3f}" * (imputer != "mean"))
        assert f"| {name} | " + " | ".join(cells) + " |" in page.replace("**", "")


def test_the_csv_holds_every_evaluation(kept):
    out, _, runs = kept
    with (out / "evaluations.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == sum(len(run.evaluations) + 1 for run in runs)
    (final,) = [row for row in rows if row["run"] == "Hopper-v5-icnn-s0" and row["kind"] == "final"]
    assert (final["env"], final["agent"], final["seed"]) == ("Hopper-v5", "icnn", "0")
    (run,) = [run for run in runs if run.folder.name == "Hopper-v5-icnn-s0"]
    assert float(final["mean"]) == run.final.mean


def test_pictures_of_every_task(kept):
    out, text, _ = kept
    tasks = {(row[0], row[2]) for row in _rows(text, "Return after training")}
    assert len(list(out.glob("curves-*"))) == len(tasks)
    assert "</svg>" in (out / "curves-HalfCheetah-v5-100000.svg").read_text()
    assert "](curves-HalfCheetah-v5-100000.svg)" in text


# made-up runs


def test_a_sweep_folder_with_an_unfinished_run(make_run, tmp_path):
    for seed, mean in enumerate([1.0, 2.0, 3.0, 4.0]):
        make_run("td3", seed, mean)
        make_run("sac", seed, mean + (10.0 if seed else -10.0))
        make_run("td3", seed, 7.0, env="Pendulum-v1")
        make_run("sac", seed, 7.0, env="Pendulum-v1")
    (make_run("sac", 4, 0.0) / "evaluation_model.json").unlink()
    runs, unfinished = read_runs(find_runs([tmp_path / "runs"]))
    text = write_report(runs, unfinished, tmp_path / "report", {}, 200)
    assert "## Not finished, left out\n\n- InvertedPendulum-v5-sac-s4\n" in text
    (_, td3, *_) = _rows(text, "Return after training")
    assert td3[1] == "td3"
    assert td3[6].startswith("2.5 [")  # the middle two
    rows = {row[1]: row for row in _rows(text, "Probability of improvement")}
    assert rows["InvertedPendulum-v5, 80 steps"][3].startswith("0.75 [")
    assert rows["Pendulum-v1, 80 steps"][3] == "0.50 [0.50, 0.50]"
    assert float(rows["all tasks"][3].split()[0]) == pytest.approx((0.75 + 0.5) / 2, abs=0.006)


def test_a_page_with_its_pictures_in_the_folder_of_its_name(make_run, tmp_path, capsys):
    from icnn_rl.cli.main import main

    folders = [make_run("td3", 0, 1.0, learning_rate=0.5), make_run("sac", 0, 2.0)]
    page = tmp_path / "page.md"
    assert main(["report", *map(str, folders), "--out", str(page), "--resamples", "50"]) == 0
    text = page.read_text()
    assert capsys.readouterr().out.rstrip() == text.rstrip()
    assert f"Written by `icnn-rl report {folders[0]} {folders[1]} --out {page}`." in text
    (picture,) = re.findall(r"]\((.*\.svg)\)", text)
    assert picture == "page/curves-InvertedPendulum-v5-80.svg"
    assert {path.suffix for path in (tmp_path / "page").iterdir()} == {".svg", ".csv", ".yml"}
    assert (tmp_path / picture).is_file()
    settings = {row[1]: row[7] for row in _rows(text, "Return after training")}
    assert "learning_rate=0.5" in settings["td3"]


def test_the_versions_of_the_runs_are_told(kept):
    section = kept[1].partition("## Versions\n")[2]
    assert "torch 2.13.0+cpu" in section
    revision = yaml.safe_load((RESULTS / "evaluations.yml").read_text())["Hopper-v5-td3-s0"]["revision"]
    assert revision[:7] in section.partition("revision ")[2]


def test_unlike_runs_are_not_averaged(make_run):
    folders = [make_run("td3", 0, 1.0), make_run("td3", 1, 2.0, learning_rate=0.5)]
    runs, _ = read_runs(folders)
    with pytest.raises(
        UserError, match=r"differs from .*: learning_rate 0.5, there 0.001\. Their mean would say nothing"
    ):
        write_report(runs, [], folders[0].parent, {}, 100)


def test_runs_under_other_constraints_are_not_compared(make_run, tmp_path):
    limit = ["l1:radius=0.5"]
    runs, _ = read_runs(
        [
            make_run("icnn", 0, 10.0, constraint=limit),
            make_run("td3", 0, 5.0, constraint=limit),
            make_run("sac", 0, 20.0, n_envs=4),
            make_run("icnn", 1, 30.0, constraint="none"),  # told of none: the environment's own holds all the same
        ]
    )
    text = write_report(runs, [], tmp_path, {}, resamples=10)
    free, limited = "InvertedPendulum-v5", "InvertedPendulum-v5 under l1:radius=0.5"
    table = _rows(text, "Return after training")
    assert [row[:2] for row in table] == [[free, "icnn"], [free, "sac"], [limited, "icnn"], [limited, "td3"]]
    assert "--constraint none" in table[0][-1]
    assert "--n-envs 4" in table[1][-1]
    assert "What stands after `under` is the run's `--constraint`." in text
    compared = [(row[0], row[1]) for row in _rows(text, "Probability of improvement")]
    assert compared == [("icnn > sac", f"{free}, 80 steps"), ("icnn > td3", f"{limited}, 80 steps")]
    assert len(list(tmp_path.glob("curves-*.svg"))) == 2


def test_an_interquartile_mean_is_shown_from_four_runs_on(make_run, tmp_path):
    runs, _ = read_runs([make_run("td3", seed, mean) for seed, mean in enumerate((1.0, 2.0, 3.0, 50.0))])
    four = write_report(runs, [], tmp_path / "four", {}, 100)
    (row,) = _rows(four, "Return after training")
    assert (row[5].split()[0], row[6].split()[0]) == ("14.0", "2.5")
    three = write_report(runs[:3], [], tmp_path / "three", {}, 100)
    assert "interquartile" in four
    assert "interquartile" not in three


def test_runs_with_other_defaults_are_not_averaged(make_run, tmp_path):
    folders = [make_run("td3", seed, 1.0) for seed in (0, 1)]
    path = folders[1] / "config.yml"
    record = yaml.safe_load(path.read_text())
    record["defaults"]["tau"] = 0.01  # as a version with another default leaves it
    path.write_text(yaml.safe_dump(record))
    with pytest.raises(UserError, match=r"differs from .*: tau 0.01, there 0.005\."):
        write_report(read_runs(folders)[0], [], tmp_path, {}, 100)
    record["settings"]["policy_kwargs"]["n_critics"] = 3  # named as --set names it
    path.write_text(yaml.safe_dump(record))
    with pytest.raises(UserError, match=r": policy_kwargs.n_critics 3, there 2; tau 0.01, there 0.005\."):
        write_report(read_runs(folders)[0], [], tmp_path, {}, 100)
    del record["settings"]["policy_kwargs"]["n_critics"]
    record["settings"]["tau"] = 0.005  # a default spelt out is no difference
    path.write_text(yaml.safe_dump(record))
    write_report(read_runs(folders)[0], [], tmp_path, {}, 100)
    del record["defaults"], record["settings"]["tau"]  # an early version tells none
    path.write_text(yaml.safe_dump(record))
    write_report(read_runs(folders)[0], [], tmp_path, {}, 100)


def test_no_seed_counts_twice_wherever_it_stands(make_run, tmp_path):
    folders = [make_run("td3", seed, 1.0) for seed in (0, 1)]
    again = folders[1].with_name("again")
    shutil.copytree(folders[1], again)
    runs, _ = read_runs([*folders, again])
    with pytest.raises(UserError, match="the same seed twice"):
        write_report(runs, [], tmp_path, {}, 100)


def test_a_run_without_evaluations_while_training_is_reported(make_run, tmp_path):
    folders = [make_run("td3", 0, 1.0), make_run("sac", 0, 2.0)]
    (folders[0] / "eval.csv").unlink()
    runs, _ = read_runs(folders)
    rows = _rows(write_report(runs, [], tmp_path / "report", {}, 100), "Return after training")
    assert [row[1] for row in rows] == ["sac", "td3"]


def test_supervised_runs_are_passed_over_below_a_folder_and_named_where_asked_for(make_run, tmp_path):
    run = make_run("td3", 0, 1.0)
    other = run.with_name("sudoku-s0")
    other.mkdir()
    (other / "config.yml").write_text("command: sudoku\nepochs: 3\n")
    assert find_runs([run.parent]) == [run]
    with pytest.raises(UserError, match=r"of a run of `icnn-rl sudoku`; expected one of `icnn-rl rl`"):
        read_runs(find_runs([other]))


def test_one_seed_counts_once(make_run, tmp_path):
    runs, _ = read_runs([make_run("td3", 0, 1.0)])
    with pytest.raises(UserError, match="the same seed twice"):
        write_report([*runs, dataclasses.replace(runs[0], folder=tmp_path)], [], tmp_path / "report", {}, 100)


def test_a_run_given_twice_is_one(make_run, monkeypatch):
    folder = make_run("td3", 0, 1.0)
    monkeypatch.chdir(folder.parent)
    assert find_runs([folder, Path(folder.name), Path()]) == [folder]


def test_runs_are_compared_by_the_steps_that_were_asked_for(make_run, tmp_path):
    """PPO ends with a whole rollout, a run that trains by episodes with an episode."""
    for seed, beyond in ((0, 9), (1, 30)):
        make_run("td3", seed, 1.0 + seed)
        path = make_run("ppo", seed, 5.0 + seed) / "evaluation_model.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "timesteps": 80 + beyond}))
    runs, _ = read_runs(find_runs([tmp_path / "runs"]))
    text = write_report(runs, [], tmp_path / "report", {}, 100)
    assert [row[1:5] for row in _rows(text, "Return after training")] == [
        [agent, "80", "5", "2"] for agent in ("ppo", "td3")
    ]
    assert [row[0] for row in _rows(text, "Probability of improvement")] == ["ppo > td3"]
    assert len(re.findall(r"]\(.*\.svg\)", text)) == 1
    assert (
        "InvertedPendulum-v5-ppo-s1,InvertedPendulum-v5,,ppo,1,final,110,"
        in (tmp_path / "report" / "evaluations.csv").read_text()
    )


def test_curves_of_unlike_runs_are_not_averaged(make_run, tmp_path):
    """Other episodes in the last evaluation: another row of the table, the same picture."""
    runs, _ = read_runs([make_run("td3", 0, 1.0), make_run("td3", 1, 1.0, learning_rate=0.5)])
    runs[1] = dataclasses.replace(runs[1], final=runs[1].final._replace(episodes=100))
    with pytest.raises(UserError, match="Their mean would say nothing"):
        write_report(runs, [], tmp_path / "report", {}, 100)


def test_runs_that_share_no_step_have_a_curve_that_says_so(make_run, tmp_path):
    folders = [make_run("td3", seed, 1.0) for seed in (0, 1)]
    write_evaluations(folders[1] / "eval.csv", [EvalRow(step, 1.0, 0.5, 5, 9.0) for step in (30, 60)])
    runs, _ = read_runs(folders)
    write_report(runs, [], tmp_path / "report", {}, 100)
    (picture,) = (tmp_path / "report").glob("*.svg")
    assert "td3 (2 runs): no step at which all were evaluated" in picture.read_text()


def test_pictures_of_a_page_with_a_space_in_its_name_are_found(make_run, tmp_path):
    runs, _ = read_runs([make_run("td3", 0, 1.0)])
    text = write_report(runs, [], tmp_path / "my page.md", {}, 100)
    assert "](my%20page/curves-InvertedPendulum-v5-80.svg)" in text
    assert (tmp_path / "my page" / "curves-InvertedPendulum-v5-80.svg").is_file()


def test_changed_sources_stay_marked(make_run, tmp_path):
    folders = [make_run("td3", seed, 1.0) for seed in (0, 1)]
    for folder, mark in zip(folders, ("", "+changes"), strict=True):
        path = folder / "config.yml"
        path.write_text(path.read_text() + f"revision: {'0123456789' * 4}{mark}\n")
    runs, _ = read_runs(folders)
    assert "revision 0123456, 0123456+changes." in write_report(runs, [], tmp_path / "report", {}, 100)


def test_the_table_gives_the_report_of_the_folders(make_run, tmp_path):
    for seed, mean in enumerate([1.0, 2.5, 3.0, 4.0]):
        make_run("td3", seed, mean)
        make_run("icnn", seed, mean + 1.0, constraint=["l1:radius=0.5"])
    folder = make_run("icnn", 0, 0.1 + 0.2)
    (folder / "eval.csv").unlink()
    (folder / "constraint.json").write_text('{"steps": 80.0, "largest_violation": "inf"}')
    runs, _ = read_runs(find_runs([tmp_path / "runs"]))
    text = write_report(runs, [], tmp_path / "folders", {}, 200)
    kept, unfinished = read_runs(find_runs([tmp_path / "folders" / "evaluations.csv"]))
    assert unfinished == []
    assert [dataclasses.replace(run, folder=run.folder.name) for run in kept] == [
        dataclasses.replace(run, folder=run.folder.name) for run in runs
    ]
    assert write_report(kept, [], tmp_path / "table", {}, 200) == text
    files = sorted(path.name for path in (tmp_path / "folders").iterdir())
    for name in files:
        assert (tmp_path / "folders" / name).read_bytes() == (tmp_path / "table" / name).read_bytes()


def test_runs_of_two_folders_keep_names_of_their_own_in_a_table(make_run, tmp_path):
    one = make_run("td3", 0, 1.0)
    shutil.copytree(one, tmp_path / "again" / one.name)
    write_table(tmp_path / "all.csv", read_runs(find_runs([one.parent, tmp_path / "again"]))[0])
    assert [run.folder for run in read_runs([tmp_path / "all.csv"])[0]] == [
        tmp_path / "runs" / one.name,
        tmp_path / "again" / one.name,
    ]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.with_suffix(".yml").unlink(), "No such file"),
        (lambda path: path.write_text("run,kind\na,final\n"), "timesteps"),
        (lambda path: path.write_text(path.read_text().replace(",final,", ",training,")), "InvertedPendulum-v5-td3-s0"),
        (lambda path: path.with_suffix(".yml").write_text("{}"), "InvertedPendulum-v5-td3-s0"),
    ],
)
def test_a_damaged_table_is_explained(make_run, tmp_path, damage, told):
    path = tmp_path / "all.csv"
    write_table(path, read_runs([make_run("td3", 0, 1.0)])[0])
    damage(path)
    with pytest.raises(UserError, match=rf"all.csv: not the table of a report .* in all.yml beside it .*{told}"):
        read_runs([path])


def test_the_same_runs_give_the_same_files(make_run, tmp_path):
    runs, _ = read_runs([make_run("td3", seed, 1.0 + seed) for seed in (0, 1)])
    for name in ("one", "two"):
        write_report(runs, [], tmp_path / name, {}, 100)
    files = sorted((tmp_path / "one").iterdir())
    assert len(files) == 4
    assert all(path.read_bytes() == (tmp_path / "two" / path.name).read_bytes() for path in files)


@pytest.mark.parametrize("content", ["[]", "{}", "{"])
def test_a_damaged_final_evaluation_is_named(make_run, content):
    folder = make_run("td3", 0, 1.0)
    (folder / "evaluation_model.json").write_text(content)
    with pytest.raises(UserError, match=r"evaluation_model.json: not a final evaluation"):
        read_runs([folder])


def test_nothing_to_report(tmp_path):
    with pytest.raises(UserError, match="no run folder there"):
        find_runs([tmp_path])
    with pytest.raises(UserError, match="none of 1 runs is finished"):
        write_report([], [tmp_path], tmp_path, {}, 100)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.yml", "paper, table 2:\n  Hopper-v5: 3000\n"),
        ("a.csv", 'source,env,return\n"paper, table 2",Hopper-v5,3000\n'),
        ("a.csv", '\ufeffsource,env,return\n"paper, table 2",Hopper-v5,3000\n'),
    ],
)
def test_reported_figures(name, content, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_reported(tmp_path / name) == {"paper, table 2": {"Hopper-v5": 3000.0}}


@pytest.mark.parametrize(("name", "content"), [("a.yml", "paper: 3"), ("a.csv", "source,env\na,b\n"), ("a.yml", "[")])
def test_a_wrong_file_of_figures_is_explained(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"a.(yml|csv): expected YAML, source: \{environment: return\}, or CSV"):
        read_reported(tmp_path / name)


def test_the_command(make_run, tmp_path, capsys):
    from icnn_rl.cli.main import main

    make_run("td3", 0, 1.0)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--resamples", "50"]) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    assert printed.rstrip() == (tmp_path / "out" / "report.md").read_text().rstrip()
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path), "--reported", str(tmp_path / "no.yml")]) == 1
    assert "no.yml: expected YAML" in capsys.readouterr().err
