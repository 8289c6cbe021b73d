"""Every figure that an alert looks at is one that the server gives, with such a label and value."""

from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedcore.errors import OverloadedError
from fedcore.rounds import Phase
from fedserver.metrics import Metrics
from tests.conftest import ROOT
from tests.deploy.manifests import DEPLOY, settings_in

yaml = pytest.importorskip("yaml", reason="manifests are read with PyYAML (the extra 'dev')")

FIGURE = re.compile(r"\bfedcore_\w+")
LABELS = re.compile(r"\b(fedcore_\w+)\{(\w+)=\"([^\"]*)\"\}")


def loaded(name: str) -> Any:
    return yaml.safe_load((DEPLOY / "prometheus" / name).read_text("utf-8"))


def rules() -> list[Any]:
    return [rule for group in loaded("alerts.yml")["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def figures() -> set[str]:
    """All names under which Prometheus finds the server's figures."""
    names = set()
    for family in text_string_to_metric_families(Metrics().exposition().decode()):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        names |= {family.name + end for end in suffixes.get(family.type, ("",))}
    return names


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_looks_at_figures_that_there_are(rule: Any, figures: set[str]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"]
    named = set(FIGURE.findall(rule["expr"]))
    assert named <= figures and (named or "up{" in rule["expr"])
    for figure, label, value in LABELS.findall(rule["expr"]):
        if label == "outcome":
            assert value in Phase.__members__, figure
            assert f'{figure}{{{label}="{value}"}} 0.0' in Metrics().exposition().decode()
        elif label == "code":
            assert value == OverloadedError.code, figure
        else:
            source = (ROOT / "server/fedserver/federation/figures.py").read_text("utf-8")
            assert f'labels("{value}")' in source, figure


@pytest.mark.parametrize("folder", ["docker", "k8s", "systemd"])
def test_the_figures_are_read_from_the_ops_port(folder: str) -> None:
    (job,) = loaded("prometheus.yml")["scrape_configs"]
    settings = settings_in(folder).server
    assert job["metrics_path"] == "/metrics" and job["job_name"] == "fedcore"
    assert job["static_configs"] == [{"targets": [f"{settings.ops_host}:{settings.ops_port}"]}]
    assert loaded("prometheus.yml")["rule_files"] == ["alerts.yml"]
