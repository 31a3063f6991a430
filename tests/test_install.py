"""install.py run for real: pip resolves beside a host's packages from hand-made wheels, without a network."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSTALL = ROOT / "install.py"

# What A1111 1.10 pins, what comes without its own needs, and three oddities: a local version, one of no
# standard, an editable install.
A1111 = {
    "numpy": "1.26.2",
    "Pillow": "9.5.0",
    "safetensors": "0.4.2",
    "opencv-python": "4.8.1.78",
    "torch": "2.1.2+cu121",
    "einops": "0.4.1",
    "controlnet_aux": "0.0.10",
    "timm": "1.0.9",
    "Odd.Name_of": "1.0-git.abc",
    "editable": "0.0.0.dev1",
}
MODULES = {"Pillow": "PIL", "opencv-python": "cv2"}

# What these releases' own metadata ask of huggingface_hub.
DIFFUSERS = {"0.30.3": ">=0.23.2", "0.32.2": ">=0.23.2", "0.35.2": ">=0.34.0", "0.37.1": ">=0.34.0"}


@pytest.fixture(scope="module")
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", INSTALL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["install"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with pip and nothing else."""
    home = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(home, with_pip=True, symlinks=os.name != "nt")
    return home


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of diffusers, and a newer one of everything else, with which pip could change the host."""
    folder = tmp_path_factory.mktemp("wheels")
    for version, hub in DIFFUSERS.items():
        wheel(folder, "diffusers", version, [f"huggingface_hub{hub}", "numpy", "Pillow", "editable"])
    for name in {*A1111, "huggingface_hub"} - {"controlnet_aux", "timm"}:
        wheel(folder, name, "99")
    return folder


@pytest.fixture
def host(empty: Path, tmp_path: Path) -> Host:
    return Host(shutil.copytree(empty, tmp_path / "host", symlinks=True), A1111)


class Host:
    """The Python of a WebUI with its packages."""

    def __init__(self, home: Path, packages: dict[str, str]) -> None:
        self.python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        scheme = "nt" if os.name == "nt" else "posix_prefix"
        self.packages = Path(sysconfig.get_path("purelib", scheme, vars={"base": str(home)}))
        for name, version in packages.items():
            self.have(name, version)
        (self.packages / "editable-0.0.0.dev1.dist-info" / "direct_url.json").write_text(
            '{"url": "file:///src/editable", "dir_info": {"editable": true}}'
        )
        # what pip leaves behind when it cannot finish
        (self.packages / "broken-1.0.dist-info").mkdir()
        leftover = self.packages / "~umpy-1.24.0.dist-info"
        leftover.mkdir()
        (leftover / "METADATA").write_text(contents("numpy", "1.24.0")["numpy-1.24.0.dist-info/METADATA"])

    def have(self, name: str, version: str) -> None:
        for other in self.packages.glob(f"{name}-*.dist-info"):
            shutil.rmtree(other)
        for path, text in contents(name, version).items():
            (self.packages / path).parent.mkdir(exist_ok=True)
            (self.packages / path).write_text(text)

    def start(self, **settings: str) -> list[str]:
        """The lines that a start prints."""
        inherited = {name: text for name, text in os.environ.items() if name[:3] not in ("PIP", "PYT")}
        done = subprocess.run(
            [self.python, INSTALL],
            env={**inherited, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def versions(self) -> set[tuple[str, str]]:
        described = [found.metadata for found in distributions(path=[str(self.packages)])]
        return {(metadata["Name"], metadata["Version"]) for metadata in described if "Name" in metadata}


def contents(name: str, version: str, requires: list[str] | None = None) -> dict[str, str]:
    """The files of a package that is nothing but there."""
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {wanted}" for wanted in requires or ()]
    return {
        f"{MODULES.get(name, name.replace('.', '_'))}/__init__.py": "",
        f"{info}/METADATA": "\n".join(lines) + "\n",
        f"{info}/RECORD": "",
    }


def wheel(folder: Path, name: str, version: str, requires: list[str] | None = None) -> None:
    """Write a wheel as PEP 427 has it."""
    with zipfile.ZipFile(folder / f"{re.sub(r'[-_.]+', '_', name)}-{version}-py3-none-any.whl", "w") as file:
        for path, text in contents(name, version, requires).items():
            file.writestr(path, text)
        info = f"{name}-{version}.dist-info"
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")


@pytest.mark.parametrize(
    ("torch", "hub", "expected"),
    [
        ("2.13.0", "0.36.2", "0.37.1"),
        ("2.1.2+cu121", "0.36.2", "0.35.2"),  # 0.36 and later cannot be imported beside this torch
        ("2.1.2+cu121", "0.25.2", "0.32.2"),  # 0.33 and later ask for a newer huggingface_hub
    ],
)
def test_the_newest_that_fits_comes_and_nothing_else_changes(
    host: Host, wheels: Path, torch: str, hub: str, expected: str
) -> None:
    host.have("torch", torch)
    host.have("huggingface_hub", hub)
    before = host.versions()
    assert host.start(PIP_FIND_LINKS=str(wheels)) == [f"ControlStack: diffusers {expected} was installed."]
    assert host.versions() == before | {("diffusers", expected)}


def test_what_cannot_be_had_is_a_line(host: Host, wheels: Path) -> None:
    before = host.versions()
    lost = "ControlNet and T2I-Adapter models do not load."
    nowhere = "no package index that pip knows of has it, or there is no network"
    assert host.start() == [f"ControlStack: diffusers is missing ({nowhere}): {lost}"]

    host.have("huggingface_hub", "0.10.1")
    conflict = "no version fits beside the installed huggingface-hub==0.10.1"
    (line,) = host.start(PIP_FIND_LINKS=str(wheels))
    assert line == f"ControlStack: diffusers is missing ({conflict}): {lost}"

    shutil.rmtree(host.packages / "pip")
    (line,) = host.start(PIP_FIND_LINKS=str(wheels))
    assert "No module named pip" in line
    assert host.versions() == before | {("huggingface_hub", "0.10.1")}


def test_what_comes_alone_brings_nothing_along(host: Host, wheels: Path) -> None:
    """Their own needs would bring a second OpenCV, and a torchvision for another torch."""
    host.have("diffusers", "0.35.2")
    for name in ("controlnet_aux", "timm"):
        shutil.rmtree(host.packages / name)
        (info,) = host.packages.glob(f"{name}-*.dist-info")
        shutil.rmtree(info)
    wheel(wheels, "controlnet_aux", "0.0.11", ["opencv-python-headless", "torchvision>=0.99"])
    wheel(wheels, "timm", "1.0.11", ["torchvision>=0.99"])
    before = host.versions()
    assert host.start(PIP_FIND_LINKS=str(wheels)) == [
        "ControlStack: controlnet_aux 0.0.11 was installed.",
        "ControlStack: timm 1.0.11 was installed.",
    ]
    assert host.versions() == before | {("controlnet_aux", "0.0.11"), ("timm", "1.0.11")}


def test_an_old_package_is_named_and_left(host: Host, wheels: Path) -> None:
    host.have("diffusers", "0.30.3")
    before = host.versions()
    (line,) = host.start(PIP_FIND_LINKS=str(wheels))
    assert line.startswith("ControlStack: diffusers 0.30.3 is older than 0.31: ")
    assert host.versions() == before


def test_a_complete_host_starts_no_process_and_no_torch(host: Host) -> None:
    host.have("diffusers", "0.35.2")
    (host.packages / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')")
    watch = (
        "import runpy, sys\n"
        "sys.addaudithook(lambda event, _: event == 'subprocess.Popen' and sys.exit('a process'))\n"
        f"sys.argv = [{str(INSTALL)!r}]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run([host.python, "-c", watch], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_floors_are_those_of_pyproject(install: ModuleType) -> None:
    listed = re.search(
        r"^dependencies = \[(.+)\]$", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE
    )
    assert listed
    floors = dict(wanted.split(">=") for wanted in re.findall(r'"(.+?)"', listed[1]))
    del floors["torch"]  # the host's own, never installed
    assert floors == {need.package: need.floor for need in install.NEEDS if need.package in floors}


def test_an_environment_is_made_once_and_again_when_broken(
    install: ModuleType, tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(wheels), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "REQUIREMENTS", tmp_path)
    (tmp_path / "newest.txt").write_text("diffusers<0.31")
    (tmp_path / "wanted.txt").write_text("diffusers\nhuggingface_hub\n")
    environment = install.Environment(".venv-x", "newest.txt", ("wanted.txt",))
    home = tmp_path / ".venv-x"

    python = install.ready(environment)
    assert subprocess.check_output(
        [python, "-c", "from importlib.metadata import version as v; print(v('diffusers'), v('numpy'))"],
        text=True,
    ).split() == ["0.30.3", "99"]

    kept = home / "kept"
    kept.touch()
    monkeypatch.setattr(install, "build", lambda *_: pytest.fail("made again although complete"))
    assert install.ready(environment) == python
    assert kept.exists()

    built = []
    monkeypatch.setattr(install, "build", lambda *_: built.append(kept.exists()))
    (home / "controlstack.stamp").write_text("unfinished")
    install.ready(environment)
    (tmp_path / "newest.txt").write_text("diffusers<0.33")
    install.ready(environment)
    assert built == [False, False]

    (home / "controlstack.stamp").unlink()
    with pytest.raises(SystemExit, match=r"was not made by install\.py"):
        install.ready(environment)


def test_beside_an_older_package_only_some_tests_run(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, str]] = []
    ran: list[list[str]] = []
    monkeypatch.setattr(install, "ready", lambda e: made.append((e.folder, e.constraints)) or "python")
    monkeypatch.setattr(install, "run", lambda command, **_: ran.append(command) or 0)
    for options in (["--gradio", "3.41", "-x"], ["--diffusers", "0.31.0", "-x"]):
        monkeypatch.setattr(sys, "argv", ["install.py", "test", *options])
        assert install.main() == 0
    assert made == [
        (".venv-test-gradio-3.41", "gradio-3.41.txt"),
        (".venv-test-0.31.0", "diffusers-0.31.0.txt"),
    ]
    (pages, core) = ran
    assert pages == ["python", "-m", "pytest", *install.PAGES, "-x"]
    assert core == ["python", "-m", "pytest", "-x"]
    assert all((ROOT / page).exists() for page in install.PAGES)
    pinned = {version: made.constraints for version, made in install.older("gradio").items()}
    for version, constraints in pinned.items():
        assert f"gradio=={version}." in (ROOT / "requirements" / constraints).read_text("utf-8")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups to signal")
def test_the_command_answers_ctrl_c_and_its_exit_code_is_ours() -> None:
    child = (
        "import sys, time\n"
        "try:\n    print('up', flush=True); time.sleep(30)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.5); sys.exit(5)\n"
    )
    parent = f"import sys, install; sys.exit(install.run([sys.executable, '-c', {child!r}]))"
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (5, b"")


def test_the_torchvision_shim_declares_its_operators_only_when_torchvision_comes(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text(
        "import torch\n"
        "for name in ('nms', 'qnms'):\n    print(getattr(torch.ops.torchvision, name).default._schema)\n"
    )
    printed = subprocess.check_output(
        [
            sys.executable,
            "-c",
            "import sys, torchvision_shim; print('torch' in sys.modules); import torchvision",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT / "tests")))},
        text=True,
    )
    takes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    assert printed.splitlines() == ["False", f"torchvision::nms{takes}", f"torchvision::qnms{takes}"]
