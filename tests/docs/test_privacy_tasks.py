"""The tasks of docs/privacy.md resolve as they stand, and promise what is said beside them."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from fedcore.errors import TaskError
from fedcore.federated import Task
from fedcore.federated.spec import PrivacySpec
from fedcore.privacy import NoiseShares, Unit
from tests.docs.blocks import blocks_of, page

RECORDS, CLIENTS = (block.text for block in blocks_of("docs/privacy.md", "toml"))
SECTION = page("docs/privacy.md").split("\n## In a task\n")[1].split("\n## ")[0]
HEAD = """
task = { name = "a" }
data = { dataset = "a" }
model = { layers = [{ kind = "linear", inputs = 64, outputs = 10 }] }
"""
OF_RECORDS = HEAD + 'training = { loss = "cross_entropy" }\n' + RECORDS
OF_CLIENTS = f"""{HEAD}
training = {{ loss = "mse", epochs = 1, batch_size = 8, optimizer = {{ name = "adam" }} }}
{CLIENTS}"""


@pytest.mark.parametrize("nth", [0, 1], ids=["records", "clients"])
def test_a_task_s_noise_and_sums_are_those_that_are_said(nth: int) -> None:
    plan = Task.from_toml((OF_RECORDS, OF_CLIENTS)[nth]).resolved().plan
    assert plan is not None
    said = re.findall(r"(\d\.\d+) clipping norms, in a sum of\s+(?:about\s+)?(\d+)", SECTION)[nth]
    assert f"{float(plan.noise_multiplier):.2f}" == said[0]
    assert plan.denominator == int(said[1])
    assert plan.unit is (Unit.RECORD, Unit.CLIENT)[nth]
    assert isinstance(plan.noise, NoiseShares)


KEYS = {
    "noise": ("central", "shares", "compact"),
    "clipping": ("flat", "per_layer", "adaptive"),
    "minimum_separation": (2,),
    "maximum_participations": (4,),
    "largest_weight": (10,),
}


def taken(text: str, key: str, value: object) -> bool:
    """Whether a task is taken that has this key in its [privacy] instead of its own."""
    without = re.sub(rf"^{key} = .*\n", "", text, flags=re.MULTILINE)
    shown = f'"{value}"' if isinstance(value, str) else value
    try:
        Task.from_toml(without.replace("[privacy]\n", f"[privacy]\n{key} = {shown}\n")).resolved()
    except TaskError:
        return False
    return True


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in KEYS.items() for v in vs])
def test_what_a_promise_to_records_and_to_clients_takes_is_what_the_table_says(
    key: str, value: object
) -> None:
    (cells,) = re.findall(rf"^\|[^|]*`{key}`[^|]*\|(.*)\|(.*)\|$", SECTION, re.MULTILINE)
    of_clients = OF_CLIENTS.replace('clipping = "adaptive"', "")  # which compact noise is not with
    for text, cell in zip((OF_RECORDS, of_clients), cells, strict=True):
        said = f'`"{value}"`' in cell if isinstance(value, str) else "may be" in cell
        assert taken(text, key, value) is said, cell


def test_records_need_a_sampling_rate_and_no_report_of_an_evaluation_is_taken() -> None:
    with pytest.raises(TaskError, match="sampling rate"):
        Task.from_toml(OF_RECORDS.replace("sampling_rate = 0.25", ""))
    for text in (OF_RECORDS, OF_CLIENTS):
        with pytest.raises(TaskError, match="reports under privacy"):
            Task.from_toml(f"{text}[evaluation]\nevery = 1\n")
        assert Task.from_toml(f"{text}[evaluation]\nevery = 1\nreported = false\n").privacy


def test_every_key_that_the_page_names_is_one_of_the_table() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", SECTION, re.MULTILINE)
    named = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert named <= {field.name for field in fields(PrivacySpec)}
