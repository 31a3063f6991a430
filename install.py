"""Install what ControlStack needs; standard library only.

python install.py          what a WebUI runs at every start: add what is missing, change nothing that is there
python install.py demo     a small WebUI of our own with demo models, in .venv
python install.py test     every check of the project, in .venv-test
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ROOT / "requirements"
SHIM = ROOT / "tests" / "torchvision_shim.py"


class Need(NamedTuple):
    """A package that the extension uses inside a WebUI, and what is lost without it.

    alone: comes without what it asks for, all of which hosts have, and some of it twice or for another torch
    """

    package: str
    module: str
    floor: str
    without: str
    alone: bool = False


NEEDS = (
    Need("numpy", "numpy", "1.26", "ControlStack does not work"),
    Need("Pillow", "PIL", "9.5", "ControlStack does not work"),
    Need("opencv-python-headless", "cv2", "4.8", "ControlStack does not work"),
    Need("safetensors", "safetensors", "0.4.2", "control models saved as .safetensors do not load"),
    Need("diffusers", "diffusers", "0.31", "ControlNet and T2I-Adapter models do not load"),
    Need("einops", "einops", "0.3", "the preprocessors of HED and line art do not run"),
    Need(
        "controlnet_aux",
        "controlnet_aux",
        "0.0.9",
        "most preprocessors with a network do not run",
        alone=True,
    ),
    Need("timm", "timm", "0.6", "depth_midas, depth_zoe, normal_midas and mobile_sam do not run", alone=True),
)

# A torch older than the first cannot import the second diffusers, which reads torch.xpu, flex_attention or
# torch.accelerator at import and does not tell pip so. Tried with torch 2.1.2, 2.3.1, 2.5.1 and 2.6.0.
DIFFUSERS_NEEDS_TORCH = (("2.3", "0.36"), ("2.5", "0.39"), ("2.6", "0.41"))

# PEP 440, appendix B, a little laxer.
STANDARD = re.compile(
    r"v?(\d+!)?\d+(\.\d+)*([-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d*)?"
    r"(-\d+|[-_.]?(post|rev|r)[-_.]?\d*)?([-_.]?dev[-_.]?\d*)?(\+[a-z0-9]+([-_.][a-z0-9]+)*)?",
    re.IGNORECASE,
)


class Environment(NamedTuple):
    """A virtual environment in the project folder, made from files in requirements/."""

    folder: str
    constraints: str
    requirements: tuple[str, ...]
    no_deps: tuple[str, ...] = ()


DEMO = Environment(".venv", "newest.txt", ("demo.txt",))
TEST = Environment(".venv-test", "newest.txt", ("demo.txt", "test.txt"), ("test-no-deps.txt",))
LINTERS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))
PAGES = ("tests/hosts/test_embedded_page.py", "tests/browser")
"""Beside an older gradio only the tests of pages tell more."""


def older(package: str) -> dict[str, Environment]:
    """The test environment beside each older version of a package that has a constraints file, by version."""
    files = {file.stem.partition("-")[2]: file for file in sorted(REQUIREMENTS.glob(f"{package}-*.txt"))}
    prefix = ".venv-test-" if package == "diffusers" else f".venv-test-{package}-"
    return {v: TEST._replace(folder=prefix + v, constraints=file.name) for v, file in files.items()}


def main() -> int:
    """Do what the command line asks for and return the exit code of the process."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        say(f"ControlStack needs Python 3.10, 3.11, 3.12 or 3.13; this is {sys.version.split()[0]}.")
        return 2 if sys.argv[1:] else 0
    if not sys.argv[1:]:
        start_up()
        return 0
    asked, rest = command_line().parse_known_args()
    if asked.command == "test":
        if asked.gradio:
            return run_tests(older("gradio")[asked.gradio], [*PAGES, *rest])
        return run_tests(older("diffusers").get(asked.diffusers), rest)
    if rest:
        say(f"The demo has no option {' '.join(rest)}; python install.py demo --help lists them.")
        return 2
    options = ["--once"] if asked.once else []
    options += ["--out", str(asked.out.absolute())] if asked.out else []
    options += ["--port", str(asked.port)] if asked.port is not None else []
    return run([ready(DEMO), "-m", "controlstack.hosts.embedded.demo", *options])


def command_line() -> argparse.ArgumentParser:
    """The commands and their options."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", allow_abbrev=False)
    demo.add_argument("--once", action="store_true", help="make the demo pictures and stop")
    demo.add_argument("--out", metavar="DIR", type=Path, help="folder of the pictures (default outputs/demo)")
    demo.add_argument("--port", metavar="N", type=int, help="port of the page (default 7861)")
    test = commands.add_parser("test", epilog="All other arguments go to pytest.", allow_abbrev=False)
    beside = test.add_mutually_exclusive_group()
    beside.add_argument("--diffusers", choices=sorted(older("diffusers")), help="pytest only, this version")
    beside.add_argument(
        "--gradio", choices=sorted(older("gradio")), help="the pages' tests only, this version"
    )
    return parser


def say(line: str) -> None:
    """Print a line at once, also when the output is a pipe."""
    print(line, flush=True)


def start_up() -> None:
    """Add the packages that the host lacks; a package that cannot be had costs a line, never the start."""
    for need in NEEDS:
        spec = importlib.util.find_spec(need.module)
        version = installed(need.package)
        if spec is None or spec.origin is None:  # a folder left behind without __init__.py has no origin
            if failure := add(need):
                say(f"ControlStack: {need.package} is missing ({failure}): {need.without}.")
            else:
                say(f"ControlStack: {need.package} {installed(need.package)} was installed.")
        elif version and release(version) < release(need.floor):
            say(
                f"ControlStack: {need.package} {version} is older than {need.floor}: {need.without}. "
                "It was left as it is."
            )


def installed(package: str) -> str | None:
    """The version of a package in this Python, if it is there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """The numbers a version begins with: 2.13.0+cpu is (2, 13, 0)."""
    return tuple(int(number) for number in re.split(r"[^\d.]", version)[0].split(".") if number)


def requirement(need: Need, torch: str | None) -> str:
    """What pip is asked for; `torch` is the host's version."""
    wanted = f"{need.package}>={need.floor}"
    if need.package == "diffusers" and torch:
        too_new = [theirs for ours, theirs in DIFFUSERS_NEEDS_TORCH if release(torch) < release(ours)]
        wanted += "".join(f",<{version}" for version in too_new[:1])
    return wanted


def add(need: Need) -> str | None:
    """Install a package beside what is there, all of which is pinned; return why that failed, or None."""
    own_index = os.environ.get("INDEX_URL")  # A1111's name for it
    try:
        with tempfile.TemporaryDirectory() as folder:
            present = Path(folder) / "installed.txt"
            present.write_text("\n".join(pins()), encoding="utf-8")
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
            pip += ["--no-deps"] if need.alone else ["--prefer-binary", "--constraint", str(present)]
            pip += ["--index-url", own_index] if own_index else []
            outcome = captured([*pip, requirement(need, installed("torch"))])
    except OSError as error:
        return str(error)
    # beside an installed version of no standard, pip from 24.1 on does its work, then fails in its summary
    failed = outcome.returncode and not installed(need.package)
    return reason(outcome.stdout + outcome.stderr) if failed else None


def pins() -> list[str]:
    """A constraint for every package of this Python. `===` is for versions that PEP 440 does not know."""
    described = [found.metadata for found in importlib.metadata.distributions()]
    names = {metadata["Name"] for metadata in described if "Name" in metadata}
    # asking by name passes over what an interrupted install left in a folder called ~name
    versions = {name: installed(name) for name in sorted(names)}
    return [f"{name}{'==' if STANDARD.fullmatch(v) else '==='}{v}" for name, v in versions.items() if v]


def captured(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it prints. Pip in it tries a silent network twice, not six times."""
    return subprocess.run(
        command,
        env={"PIP_RETRIES": "1", **os.environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def reason(output: str) -> str:
    """Why pip failed, in a few words, from what it printed."""
    if pinned := sorted(set(re.findall(r"\(constraint\) (\S+)", output))):
        return f"no version fits beside the installed {', '.join(pinned)}"
    if "from versions: none" in output:
        return "no package index that pip knows of has it, or there is no network"
    lines = [line.strip(" .") for line in output.splitlines() if line.strip()] or ["pip said nothing"]
    errors = [line[len("error: ") :] for line in lines if line.lower().startswith("error: ")]
    return (errors or lines[-1:])[0][:200]


def run_tests(beside: Environment | None, pytest_arguments: list[str]) -> int:
    """Run every check in the newest environment, or only tests in one with an older package."""
    python = ready(beside or TEST)
    failed = [" ".join(linter) for linter in (() if beside else LINTERS) if run([python, "-m", *linter])]
    for linter in failed:
        say(f"FAILED: {linter}")
    # one thread: sums come out in one order, and threads do not fight for the cores of a busy machine
    return run([python, "-m", "pytest", *pytest_arguments], OMP_NUM_THREADS="1") or len(failed)


def ready(environment: Environment) -> str:
    """The Python of an environment, which is made anew unless it is complete and its recipe unchanged."""
    home = ROOT / environment.folder
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = home / "controlstack.stamp"
    recipe = fingerprint(environment)
    if stamp.is_file() and stamp.read_text("utf-8") == recipe and runs(python, ""):
        return str(python)
    if home.exists():
        if not stamp.is_file():
            raise SystemExit(f"{home} was not made by install.py. Rename or remove it, then run this again.")
        if Path(sys.prefix) == home:
            raise SystemExit(f"{home} has to be made anew: run install.py with a Python outside it.")
        shutil.rmtree(home)
    home.mkdir()
    stamp.write_text("unfinished", "utf-8")
    build(environment, home, str(python))
    stamp.write_text(recipe, "utf-8")
    return str(python)


def fingerprint(environment: Environment) -> str:
    """A hash of this Python and of everything that decides what an environment holds."""
    digest = hashlib.sha256(f"{sys.version} {environment}".encode())
    names = {DEMO.constraints, environment.constraints, *environment.requirements, *environment.no_deps}
    for name in sorted(names):
        digest.update((REQUIREMENTS / name).read_bytes())
    digest.update(SHIM.read_bytes() if environment.no_deps else b"")
    return digest.hexdigest()


def build(environment: Environment, home: Path, python: str) -> None:
    """Make an environment. Where packages come from is up to the user's pip settings (PIP_INDEX_URL ...)."""
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    pip += ["--constraint", str(REQUIREMENTS / environment.constraints)]
    version = sys.version.split()[0]
    step(f"Making {home.name} with Python {version}", [sys.executable, "-m", "venv", str(home)])
    files = " and ".join(environment.requirements)
    step(
        f"Installing torch and the other packages of {files}: minutes, gigabytes if pip picks a CUDA build",
        pip + [f"--requirement={REQUIREMENTS / name}" for name in environment.requirements],
    )
    for name in environment.no_deps:
        step(f"Installing what {name} names", [*pip, "--no-deps", f"--requirement={REQUIREMENTS / name}"])
    if environment.no_deps and not runs(python, "import torchvision"):
        asked = captured([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
        packages = Path(asked.stdout.strip())
        shutil.copy(SHIM, packages)
        (packages / f"{SHIM.stem}.pth").write_text(f"import {SHIM.stem}\n", "utf-8")
        step("Declaring operators that this torchvision cannot load", [python, "-c", "import torchvision"])


def step(why: str, command: list[str]) -> None:
    """Say what comes next and do it; a failure ends the program."""
    say(f"\n{why} ...")
    if run(command):
        raise SystemExit(f"Failed: {why}.")


def runs(python: str | Path, code: str) -> bool:
    """Whether a Python is there and gets through a line of code."""
    return Path(python).exists() and captured([str(python), "-c", code]).returncode == 0


def run(command: list[str], **variables: str) -> int:
    """Run a command in the project folder and return its exit code; it alone answers Ctrl-C."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    path = str(ROOT / "lib_controlnet")
    process = subprocess.Popen(command, cwd=ROOT, env={**inherited, "PYTHONPATH": path, **variables})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    code = process.wait()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
