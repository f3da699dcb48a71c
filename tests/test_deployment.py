"""compose.yaml, the Dockerfile and the NATS configuration, as far as they can be checked without a docker engine."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from typer.testing import CliRunner

from cli.database_roles import LOGINS
from cli.embedded import NATS_ACCOUNTS as ACCOUNTS
from cli.main import app
from events.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
PROCESSES = ("gateway", "command-service", "worker", "projector", "archiver")
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
    for name in PROCESSES[1:]:
        assert SERVICES[name]["healthcheck"]["test"] == ["CMD", "dex", "health", name]


def test_each_node_keeps_its_data_in_a_volume_of_its_own():
    volumes = [volume.partition(":")[0] for name in NODES for volume in SERVICES[name]["volumes"] if ":/data" in volume]
    assert sorted(volumes) == sorted(NODES)
    assert set(COMPOSE["volumes"]) == {*NODES, "postgres"}


def test_no_secret_is_written_down():
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name or "ROUTE" in name or "SECRET" in name or "@" in value:
                assert "${" in value, name
    text = (ROOT / "deploy" / "nats.conf").read_text() + ACCOUNTS.read_text()
    for line in text.splitlines():
        if "password:" in line.partition("#")[0]:
            assert re.search(r"password: \$NATS_[A-Z_]+_PASSWORD\b", line), line


def test_each_process_is_given_what_is_its_own():
    """Its own user of NATS and of Postgres; no process but the gateway the sessions' key."""
    for name in PROCESSES:
        environment = SERVICES[name]["environment"]
        user = f"nats://{name}:${{NATS_{name.upper().replace('-', '_')}_PASSWORD}}@"
        assert environment["DATA_ENGINE_NATS_URL"] == ",".join(f"{user}{node}:4222" for node in NODES)
        database = environment.get("DATA_ENGINE_DATABASE_URL")
        assert (database is not None) == (name in LOGINS)
        assert database is None or database.startswith(f"postgresql://{LOGINS[name]}:")
        assert ("DATA_ENGINE_JWT_SECRET" in environment) == (name == "gateway")
    migrate = SERVICES["migrate"]["environment"]
    for name, login in LOGINS.items():
        assert migrate[f"DATA_ENGINE_{name.upper().replace('-', '_')}_DATABASE_URL"].startswith(
            f"postgresql://{login}:"
        )
    assert SERVICES["migrate"]["command"] == ["migrate", "--roles"]


def test_every_password_is_in_the_example_environment():
    needed = set(re.findall(r"\$\{((?:NATS|POSTGRES)_[A-Z_]+)", (ROOT / "compose.yaml").read_text()))
    listed = set(re.findall(r"^# ((?:NATS|POSTGRES)_[A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert needed == listed


def test_the_nats_configuration_is_valid_and_durable():
    path = ROOT / "deploy" / "nats.conf"
    program = str(Path(sys.executable).parent / "nats-server")
    # as compose.yaml gives it, with passwords that would not be texts without the quotes
    given = SERVICES["nats-1"]["environment"]
    secrets = {name: re.sub(r"\$\{[^}]*\}", "12345", value) for name, value in given.items()}
    checked = subprocess.run(
        [program, "-t", "-c", str(path)], env={**os.environ, **secrets}, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "sync_interval: always" in path.read_text()
    for node in NODES:
        volumes = SERVICES[node]["volumes"]
        for file in ("deploy/nats.conf", "migrations/nats_accounts.conf"):
            assert f"./{file}:/etc/nats/{file}:ro" in volumes


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
