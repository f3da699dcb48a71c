"""compose.yaml, the Dockerfile and the NATS configuration, as far as they can be checked without a docker engine."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from typer.testing import CliRunner

from cli.main import app
from events.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
PROCESSES = ("gateway", "command-service", "worker", "projector")
NODES = ("nats-1", "nats-2", "nats-3")


def test_every_process_is_a_service_with_a_health_check_and_starts_after_the_migration():
    for name in PROCESSES:
        service = SERVICES[name]
        assert service["command"] == [name]
        assert service["healthcheck"]["test"]
        assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        assert service["environment"]["DATA_ENGINE_NATS_REPLICAS"] == "3"
    for name in (*NODES, "postgres"):
        assert SERVICES["migrate"]["depends_on"][name] == {"condition": "service_healthy"}
        assert SERVICES[name]["healthcheck"]["test"]


def test_the_entry_points_are_those_of_dex_up():
    for name in (*PROCESSES, "migrate", "health"):
        result = CliRunner().invoke(app, [name, "--help"])
        assert result.exit_code == 0, name
    for name in ("command-service", "worker", "projector"):
        assert SERVICES[name]["healthcheck"]["test"] == ["CMD", "dex", "health", name]


def test_each_node_keeps_its_data_in_a_volume_of_its_own():
    volumes = [volume.partition(":")[0] for name in NODES for volume in SERVICES[name]["volumes"] if ":/data" in volume]
    assert sorted(volumes) == sorted(NODES)
    assert set(COMPOSE["volumes"]) == {*NODES, "postgres"}


def test_no_secret_is_written_down():
    text = (ROOT / "compose.yaml").read_text() + (ROOT / "deploy" / "nats.conf").read_text()
    for line in text.splitlines():
        if "PASSWORD" in line and ":" in line and not line.lstrip().startswith("#"):
            assert "${" in line or "$NATS_PASSWORD" in line, line


def test_the_nats_configuration_is_valid_and_durable():
    path = ROOT / "deploy" / "nats.conf"
    program = str(Path(sys.executable).parent / "nats-server")
    environment = {**os.environ, "NATS_NODE": "nats-1", "NATS_USER": "dex", "NATS_PASSWORD": "x"}
    checked = subprocess.run(
        [program, "-t", "-c", str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "sync_interval: always" in path.read_text()


def test_the_image_has_every_package():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    dockerfile = (ROOT / "Dockerfile").read_text()
    for package in packages:
        assert f"COPY {package} {package}\n" in dockerfile
    assert "USER app" in dockerfile


def test_metrics_are_for_the_network_of_the_containers_only():
    for name in PROCESSES:
        assert SERVICES[name]["environment"]["DATA_ENGINE_METRICS_PORT"] == "9464"
        assert SERVICES[name]["environment"]["DATA_ENGINE_METRICS_HOST"] == "0.0.0.0"
        assert not any("9464" in port for port in SERVICES[name].get("ports", [])), name


def test_the_example_environment_lists_every_setting():
    listed = set(re.findall(r"^# (DATA_ENGINE_[A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert listed == {f"DATA_ENGINE_{name.upper()}" for name in Settings.model_fields}
