"""Hidden entries of images and table rows as the argmin of a convex energy."""

from icnn_rl.supervised.imputation.baselines import ConvRegression
from icnn_rl.supervised.imputation.faces import TEST_FACES, AugmentedFaces, load_faces
from icnn_rl.supervised.imputation.module import ImputationModule, check_masked, mask_left, mask_random, squared_error
from icnn_rl.supervised.imputation.regression import Regression
from icnn_rl.supervised.imputation.tables import IMPUTERS, TABLES, RandomlyMasked, impute, load_table, split_table

__all__ = [
    "IMPUTERS",
    "TABLES",
    "TEST_FACES",
    "AugmentedFaces",
    "ConvRegression",
    "ImputationModule",
    "RandomlyMasked",
    "Regression",
    "check_masked",
    "impute",
    "load_faces",
    "load_table",
    "mask_left",
    "mask_random",
    "split_table",
    "squared_error",
]
