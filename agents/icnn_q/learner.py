"""The learner behind ICNNQ: one update of S critics and their targets. Tensors only: no environment, no logger.

With Q_e = -f_e, e = 1 .. E, and target networks marked by ', for each of the S learners

    a*'    = argmax_a mean_e Q'_e(s', a)                      a convex programme, solved for the whole batch
    a'     = clip( a*' + clip( N(0, noise), +-clip ), -1, 1 )
    target = scale r + gamma (1 - ended) clip( min_e Q'_e(s', a'), low, high )
    loss   = sum_e mean_b ( Q_e(s, a + N(0, jitter)) - target )^2

A lone agent is S = 1; stacked ones are S > 1, with everything of learner s in row s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from icnn_rl.agents.icnn_q.batch import Batch, Draws, Settings
from icnn_rl.agents.icnn_q.compiled_adam import CompiledAdam
from icnn_rl.agents.icnn_q.critics import Critics
from icnn_rl.agents.icnn_q.losses import GRADIENT_KEY, LOSS_KEYS, TARGET_KEYS, TD_RATE
from icnn_rl.solvers import Solver

__all__ = ["CHECK_EVERY", "FRESH", "NUMBERS", "Learner", "is_fused_adam", "process_generator"]

#: What an update tells, in the order of its columns.
NUMBERS = (*LOSS_KEYS, GRADIENT_KEY, *TARGET_KEYS)

#: What a learner keeps before its first update, see :meth:`Learner.keep`.
FRESH: dict[str, Any] = {
    "td_square": 0.0,
    "seen": [math.inf, -math.inf],
    "value_range": [-math.inf, math.inf],
}

#: Updates between two looks at whether every loss is finite, where asking makes the host wait for the device.
CHECK_EVERY = 100


AnyCritics = TypeVar("AnyCritics", bound=Critics)


class Learner(Generic[AnyCritics]):
    """S learners with critics, targets, optimisers and random streams of their own.

    Args:
        critics, targets: of all learners, see :class:`icnn_rl.agents.icnn_q.critics.Critics`.
        optimizers: one for each learner, over its own parameters.
        solver: for the argmax in the Bellman target.
        generators: what each learner's noise is drawn from, on the critics' device.
        target_members: the target takes the least of that many members, drawn anew for each update; None: of all.
        policy_delay: updates of the critics for each move of the targets.
        target_window: low and high are the least and the largest target of the last so many updates; 0: there is no
            such range.
        updates: how many there have been.
        kept: of each learner, what :meth:`keep` gave when it was interrupted; None: they begin.
        check_every: updates between two looks at whether the losses are finite. Between them a learner whose loss is
            not leaves its weights alone, which needs the fused Adam; with 1 the host is asked before every step.
        fixed_steps: take all steps of the solver for every batch, with finished rows frozen, instead of asking the
            device after each whether there is anything left to do.

    Attributes:
        settings: :class:`Settings`, to be read in before the first update.
        sums: (S, len(NUMBERS)), sums of what the updates told since they were last taken.
    """

    def __init__(
        self,
        critics: AnyCritics,
        targets: AnyCritics,
        optimizers: Sequence[torch.optim.Optimizer],
        solver: Solver,
        generators: Sequence[torch.Generator],
        *,
        target_members: int | None = None,
        policy_delay: int = 1,
        target_window: int = 0,
        updates: int = 0,
        kept: Sequence[Mapping[str, Any]] | None = None,
        check_every: int = 1,
        fixed_steps: bool = False,
    ) -> None:
        self.critics, self.targets, self.optimizers, self.solver = critics, targets, list(optimizers), solver
        self.generators, self.target_members, self.policy_delay = list(generators), target_members, policy_delay
        self.check_every, self.fixed_steps = check_every, fixed_steps
        self.parameters, self._slow = critics.parameters(), targets.parameters()
        device, learners = self.parameters[0].device, critics.learners
        self.device = device
        self.settings = Settings(learners, device)
        known = [FRESH] * learners if kept is None else list(kept)
        self.target_window = target_window
        self._seen = torch.tensor([one["seen"] for one in known], dtype=torch.float32, device=device)
        if target_window:
            ranges = [one["value_range"] for one in known]
            self.settings.value_range = torch.tensor(ranges, dtype=torch.float32, device=device)
        self.updates = self._first_update = updates
        #: Running mean of the squared TD error, of one member.
        self.td_square = torch.tensor([one["td_square"] for one in known], dtype=torch.float32, device=device)
        self.sums = torch.zeros(learners, len(NUMBERS), device=device)
        self._sound = torch.ones(learners, dtype=torch.bool, device=device)
        self._sound_updates = torch.zeros(learners, dtype=torch.int64, device=device)
        self._rate = torch.zeros(learners, device=device)
        self._skip = torch.zeros(learners, device=device)
        self._normal: tuple[Tensor, Tensor] | None = None
        self._members = torch.zeros(learners, 0, dtype=torch.int64, device=device)
        self._adams = self._compile_adams()
        if check_every > 1 and self._adams is None:
            for optimizer, skip in zip(self.optimizers, self._skip, strict=True):
                optimizer.found_inf = skip  # type: ignore[attr-defined]  # fused Adam's own: 1 leaves all as it is
        self._owned = [
            [p for group in optimizer.param_groups for p in group["params"]] for optimizer in self.optimizers
        ]

    def _compile_adams(self) -> list[CompiledAdam] | None:
        """One for each learner, where everything is on the CPU and as it usually is."""
        compiled = self.critics.compiled
        if (
            compiled is None
            or self.fixed_steps
            or not all(CompiledAdam.fits(optimizer) for optimizer in self.optimizers)
        ):
            return None
        e, gradients = self.critics.members, compiled.gradients
        own = [slice(s * e, (s + 1) * e) for s in range(self.critics.learners)]
        return [
            CompiledAdam(optimizer, [part[rows] for part in gradients], [part[rows] for part in self._slow])
            for optimizer, rows in zip(self.optimizers, own, strict=True)
        ]

    # an update

    def update(self, batch: Batch) -> Tensor:
        """One update of every learner; what it tells, (S, len(NUMBERS)).

        Raises:
            FloatingPointError: a loss or its gradient is not finite. The weights are those of the last sound update.
        """
        self.draw(batch.actions)
        numbers = self.step(batch)
        self.count()
        return numbers

    def draw(self, like: Tensor) -> None:
        """The next update's random numbers, each from its learner's own stream: for actions (S, B, n) like these."""
        if self._normal is None or self._normal[0].shape != like.shape:
            self._normal = torch.zeros_like(like), torch.zeros_like(like)
        noise, jitter = self._normal
        if self._members.shape[1] != (self.target_members or 0):
            self._members = self._members.new_zeros(len(like), self.target_members or 0)
        for s, stream in enumerate(self.generators):
            if self.settings.any("target_policy_noise", s):
                noise[s].normal_(generator=stream)
            if self.target_members is not None:
                order = torch.randperm(self.critics.members, generator=stream, device=self.device)
                self._members[s] = order[: self.target_members]
            if self.settings.any("action_smoothing", s):
                jitter[s].normal_(generator=stream)
        moves = (self.updates + 1) % self.policy_delay == 0
        torch.mul(self.settings.tau, float(moves), out=self._rate)

    def _draws(self) -> Draws:
        """What was drawn, in units of actions."""
        assert self._normal is not None
        own, (noise, jitter) = self.settings, self._normal
        scaled = smoothing = None
        if own.somewhere("target_policy_noise"):
            clip = own.target_noise_clip[:, None, None]
            scaled = (own.target_policy_noise[:, None, None] * noise).clamp(-clip, clip)
        if own.somewhere("action_smoothing"):
            smoothing = own.action_smoothing[:, None, None] * jitter
        return Draws(scaled, smoothing, None if self.target_members is None else self._members)

    @torch.no_grad()
    def step(self, batch: Batch) -> Tensor:
        """What the device does of an update, once :meth:`draw` has been called. With ``fixed_steps`` and
        ``check_every`` > 1 nothing here waits for it, so that a CUDA graph can hold it."""
        draws = self._draws()
        target, usable, searched = self._target(batch, draws)
        if self.target_window:
            self._note_range(target, usable)
        actions = batch.actions if draws.jitter is None else batch.actions + draws.jitter
        told, gradients = self.critics.gradient(batch.obs, actions, target, usable)
        if self._adams is not None:
            return self._finish_compiled(self._adams, told, searched, usable)
        lengths = self._lengths(gradients)
        if self.check_every == 1:
            self._refuse_unsound(told[:, 0], lengths, usable)
        else:
            self._sound.logical_and_(told[:, 0].isfinite() & lengths.isfinite())
            self._skip.copy_(~self._sound)
            self._sound_updates.add_(self._sound)
        self._descend(gradients)
        self.critics.clamp()
        self._follow()
        return self._tell(told, lengths, searched)

    def _finish_compiled(self, adams: list[CompiledAdam], told: Tensor, searched: Tensor, usable: Tensor) -> Tensor:
        """The rest of a step where one pass over the weights does it all."""
        lengths = torch.tensor([adam.length() for adam in adams])
        losses, tau = told[:, 0].tolist(), self._rate.tolist()
        if self.check_every == 1:
            self._refuse_unsound(told[:, 0], lengths, usable)
        for s, (adam, loss, length) in enumerate(zip(adams, losses, lengths.tolist(), strict=True)):
            if math.isfinite(loss) and math.isfinite(length) and (self.check_every == 1 or bool(self._sound[s])):
                adam.step(tau[s])
                self._sound_updates[s] += 1
            else:
                self._sound[s] = False
        self.critics.clamp()
        return self._tell(told, lengths, searched)

    def _tell(self, told: Tensor, lengths: Tensor, searched: Tensor) -> Tensor:
        numbers = torch.cat((told, lengths.unsqueeze(-1), searched), -1)
        self.sums.add_(numbers)
        newest = told[:, 0] / self.critics.members
        if self.check_every > 1:
            newest = torch.where(self._sound, newest, self.td_square)
        self.td_square.lerp_(newest, TD_RATE)
        return numbers

    def _note_range(self, target: Tensor, usable: Tensor) -> None:
        least = torch.where(usable, target, math.inf).amin(1)
        largest = torch.where(usable, target, -math.inf).amax(1)
        torch.minimum(self._seen[:, 0], least, out=self._seen[:, 0])
        torch.maximum(self._seen[:, 1], largest, out=self._seen[:, 1])

    def _move_range(self) -> None:
        """Every window: what was seen in it is the range of the next one."""
        assert self.settings.value_range is not None
        self.settings.value_range.copy_(self._seen)  # in place: a CUDA graph may read it
        self._seen[:, 0], self._seen[:, 1] = math.inf, -math.inf

    def count(self) -> None:
        """After :meth:`step`."""
        self.updates += 1
        if self.target_window and self.updates % self.target_window == 0:
            self._move_range()
        if self.updates % self.check_every == 0:
            self.check()

    def check(self) -> None:
        """Ask the device whether every loss so far was finite.

        Raises:
            FloatingPointError: one was not. The weights of its learner are those of its last sound update.
        """
        sound, done = self._sound.tolist(), self._sound_updates.tolist()
        broken = [f"agent {s} at update {self._first_update + done[s]}" for s, fine in enumerate(sound) if not fine]
        if broken:
            raise FloatingPointError(
                f"critic loss or its gradient is not finite: {', '.join(broken)}. The weights are those of the last "
                "sound update. Lower learning_rate or reward_scale."
            )

    def take_means(self, updates: int) -> Tensor:
        """Means of what so many updates told, (S, len(NUMBERS)); counted anew from here."""
        means = self.sums / updates
        self.sums.zero_()
        return means

    def _target(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        atol = self.settings.target_gap * self.td_square.sqrt()  # a gap that is small beside the TD error
        return self.targets.target(batch, self.settings, draws, self.solver, atol, fixed_steps=self.fixed_steps)

    def _descend(self, gradients: list[Tensor | None]) -> None:
        """One step of every learner's optimiser, on its own rows."""
        for s, (optimizer, owned) in enumerate(zip(self.optimizers, self._owned, strict=True)):
            for parameter, gradient in zip(owned, gradients, strict=True):
                parameter.grad = self._own(gradient, s)
            optimizer.step()

    def _own(self, whole: Tensor | None, s: int) -> Tensor | None:
        """One learner's rows of a tensor (S E, ...)."""
        if whole is None or self.critics.learners == 1:
            return whole
        return whole[s * self.critics.members : (s + 1) * self.critics.members]

    def _follow(self) -> None:
        """The targets move towards the critics: theta' += tau (theta - theta')."""
        rates = self._rate if self.check_every == 1 else self._rate * self._sound
        if len(rates) == 1:
            torch._foreach_lerp_(self._slow, self.parameters, [rates[0]] * len(self._slow))
        else:
            rows = rates.repeat_interleave(self.critics.members)[:, None, None]
            for slow, fast in zip(self._slow, self.parameters, strict=True):
                slow.lerp_(fast, rows)
        self.targets.take_statistics(self.critics)

    def _lengths(self, gradients: list[Tensor | None]) -> Tensor:
        """Of each learner's gradient, (S,)."""
        learners = self.critics.learners
        given = [part for part in gradients if part is not None]
        parts = [torch.linalg.vector_norm(part.reshape(learners, -1), dim=-1) for part in given]
        lengths: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
        return lengths

    def _refuse_unsound(self, losses: Tensor, lengths: Tensor, usable: Tensor) -> None:
        """Before a step."""
        for loss, length in zip(losses.tolist(), lengths.tolist(), strict=True):
            if math.isfinite(loss) and math.isfinite(length):
                continue
            what = f"critic loss is {loss}"
            if math.isfinite(loss):
                what = "the gradient of the critic loss is not finite"  # rows without a target are left out of the loss
            if not bool(usable.any()):
                what = "no transition of the batch has a target, the search for the next action failed in all of them,"
            raise FloatingPointError(
                f"{what} at update {self.updates}: the weights are those of the last sound update. Lower learning_rate "
                "or reward_scale."
            )

    # what goes on

    def keep(self, s: int) -> dict[str, Any]:
        """What learner s keeps beside its weights, its optimiser's state and its random stream, as plain data."""
        value_range = self.settings.value_range
        return {
            "td_square": float(self.td_square[s]),
            "seen": self._seen[s].tolist(),
            "value_range": FRESH["value_range"] if value_range is None else value_range[s].tolist(),
        }


def is_fused_adam(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimiser can be told, on the device, to leave all as it is."""
    return type(optimizer) is torch.optim.Adam and all(bool(group["fused"]) for group in optimizer.param_groups)


def process_generator(device: torch.device) -> torch.Generator:
    """The process's own random stream on a device."""
    if device.type != "cuda":
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
