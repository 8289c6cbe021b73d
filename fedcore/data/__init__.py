"""Datasets, batches of constant shape, natural clients, and loaders of real file formats."""

from fedcore.data.arff import load_arff
from fedcore.data.batching import Batch, BatchPlan, batch_plan, steps_per_epoch
from fedcore.data.clients import group_by, stack_clients
from fedcore.data.csv import load_csv
from fedcore.data.dataset import Dataset, concat
from fedcore.data.digits import Digits, load_digits
from fedcore.data.examples import load_examples
from fedcore.data.idx import WriterLabels, load_idx, load_mnist, load_qmnist_labels
from fedcore.data.npz import load_npz
from fedcore.data.standardize import Standardizer, standardize
from fedcore.data.table import Column, Table

__all__ = [
    "Batch",
    "BatchPlan",
    "Column",
    "Dataset",
    "Digits",
    "Standardizer",
    "Table",
    "WriterLabels",
    "batch_plan",
    "concat",
    "group_by",
    "load_arff",
    "load_csv",
    "load_digits",
    "load_examples",
    "load_idx",
    "load_mnist",
    "load_npz",
    "load_qmnist_labels",
    "stack_clients",
    "standardize",
    "steps_per_epoch",
]
