"""The page of a run is one file that loads and runs nothing, says the mode, and escapes all."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from fedcore.errors import CheckpointError
from fedsim.records import Mode, OwnRows
from fedsim.report.page import render_page, write_report
from fedsim.run.folder import RunFolder
from fedsim.run.reading import read_run
from tests.sim.records.samples import private_record, record
from tests.sim.report.reading_pages import Page, parsed, require_harmless
from tests.sim.report.runs import HOSTILE, learning, learning_privately, run_of
from tests.sim.run.samples import plan


@pytest.mark.parametrize("mode", Mode)
def test_the_label_of_the_mode_stands_on_top(mode: Mode) -> None:
    page = Page(render_page(run_of(learning(0.5, mode=mode))))
    body = page.texts[page.texts.index("digits") + 1 :]
    assert body[:2] == ["digits", mode.words]
    require_harmless(page)


def test_hostile_names_are_text_and_nothing_else() -> None:
    rounds = [
        record(
            funnel={HOSTILE: 3},
            lost={HOSTILE: {HOSTILE: 3}},
            personal={HOSTILE: 0.5},
        )
    ]
    run = run_of(
        rounds,
        name=HOSTILE,
        id=HOSTILE,
        ended=HOSTILE,
        seeds={HOSTILE: 1},
        scenario={HOSTILE: {HOSTILE: HOSTILE}},
        task={HOSTILE: [HOSTILE]},
    )
    text = render_page(run)
    page = Page(text)
    require_harmless(page)
    harmless = Page(render_page(run_of([record(personal={"x": 0.5}, funnel={"a": 3})])))
    assert set(page.tags) == set(harmless.tags)
    assert sum("<script>alert(1)</script>" in shown for shown in page.texts) >= 6
    assert not any(letter in text for letter in "\x00\x1b\u202e\ud800")


def test_the_policy_allows_the_one_style_of_the_page_and_nothing_else() -> None:
    page = Page(render_page(run_of(learning(0.5))))
    (style,) = page.styles
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert page.policy.split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_the_page_has_configuration_rounds_plots_and_losses() -> None:
    run = run_of(learning(0.5, 0.75), scenario={"population": {"clients": 1000}})
    page = Page(render_page(run))
    assert page.tags.count("svg") == 4
    for expected in ("population", "clients", "1000", "75.0%", "battery", "clients, median"):
        assert any(expected in shown for shown in page.texts), expected


@pytest.mark.parametrize("rows", list(OwnRows))
def test_the_page_says_on_which_rows_clients_were_measured(rows: OwnRows) -> None:
    texts = Page(render_page(run_of([record(own_rows=rows)]))).texts
    assert f"Accuracy on their own {rows.words}" in texts
    assert f"Personal accuracy on their own {rows.words}" in texts
    assert "80.0% in the mean of 4 clients" in texts


def test_under_privacy_the_page_shows_epsilon_and_nothing_that_devices_measured() -> None:
    texts = Page(render_page(run_of(learning_privately(0.5, 0.75), private=True))).texts
    assert "ε 0.800 of 4.000, δ 1.0e-05" in texts
    assert "Privacy spent, ε" in texts
    for unreleased in ("Training loss", "training", "Clients p10", "clients, mean", "Personal"):
        assert unreleased not in texts


def test_a_run_that_goes_on_or_never_began_has_a_page_too() -> None:
    for run in (run_of([]), run_of([private_record()], private=True), run_of([record(test=None)])):
        require_harmless(Page(render_page(run)))
    assert "None yet." in render_page(run_of([]))


def test_of_very_many_rounds_the_page_shows_some_and_the_last() -> None:
    page = Page(render_page(run_of(learning(*[0.5] * 2_600))))
    assert page.tags.count("tr") < 700
    assert "2600" in page.texts
    assert "Every 6th of 2,600 rounds." in page.texts


def test_the_report_lies_in_the_runs_folder_with_its_plots(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, plan()) as folder:
        folder.append(record(0))
        folder.append(record(1))
    run = read_run(folder.path)
    page = write_report(run)
    assert page == folder.path / "report.html"
    assert page.read_text("utf-8") == render_page(run)
    plots = {
        path.stem: parsed(path.read_text("utf-8")) for path in (page.parent / "plots").iterdir()
    }
    assert set(plots) == {"accuracy", "loss", "bytes", "funnel"}
    assert write_report(run) == page  # again, over what is there


def test_a_report_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, plan()) as folder:
        folder.append(record(0))
    (folder.path / "report.html").mkdir()
    with pytest.raises(CheckpointError, match="report"):
        write_report(read_run(folder.path))
