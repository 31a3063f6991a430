"""Import names of other extensions' callers, each case in a process of its own.

The folders below stand as a WebUI has them: its root on `sys.path`, extensions below it, and a host package
`modules` that lists the active ones.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDER = "sd-webui-controlnet-stack"
EXTENSIONS = """
from pathlib import Path
from types import SimpleNamespace

def active():
    return [SimpleNamespace(path=path) for path in sorted(Path({root!r}, "extensions").iterdir())]
"""
OURS = [
    "scripts.external_code",
    "extensions.sd-webui-controlnet.scripts.external_code",
    "extensions-builtin.sd-webui-controlnet.scripts.external_code",
    f"extensions.{FOLDER}.scripts.external_code",
    "internal_controlnet.external_code",
    "internal_controlnet.args",
]


@pytest.fixture
def webui(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "extensions").mkdir()
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/__init__.py").touch()
    (tmp_path / "modules/extensions.py").write_text(EXTENSIONS.format(root=str(tmp_path)))
    (tmp_path / "extensions" / FOLDER).symlink_to(REPOSITORY, target_is_directory=True)
    return tmp_path


def incumbent(webui: Path, name: str = "sd-webui-controlnet") -> None:
    scripts = webui / "extensions" / name / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "external_code.py").write_text("whose = 'theirs'")
    (scripts / "controlnet.py").write_text("from scripts import external_code")


def ran(webui: Path, code: str, *, preload: bool = True) -> str:
    """What the code prints in a process whose only way to us is `preload.py`."""
    start = f"""
        import argparse, importlib, runpy
        run = runpy.run_path("extensions/{FOLDER}/preload.py", run_name="preload.py")
        {preload} and run["preload"](argparse.ArgumentParser())
    """
    lines = textwrap.dedent(start) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=webui,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("order", [1, -1])
def test_every_path_leads_to_one_class_in_both_orders(webui: Path, order: int) -> None:
    code = f"""
        units = [importlib.import_module(name).ControlNetUnit for name in {OURS[::order]}]
        from controlstack.unit import ControlNetUnit
        print(all(unit is ControlNetUnit for unit in units))
    """
    assert ran(webui, code) == "True"


def test_the_script_file_itself_leads_to_the_same_class_without_preload(webui: Path) -> None:
    """As hosts run it: by its file, under its file name."""
    code = f"""
        import sys
        by_path = runpy.run_path("extensions/{FOLDER}/scripts/external_code.py", run_name="external_code.py")
        from controlstack.unit import ControlNetUnit
        print(by_path["ControlNetUnit"] is ControlNetUnit, sys.meta_path[-1].__class__.__name__)
    """
    assert ran(webui, code, preload=False) == "True type"


def test_the_tables_come_by_every_path(webui: Path) -> None:
    code = f"""
        paths = ("scripts", "extensions.sd-webui-controlnet.scripts", "extensions.{FOLDER}.scripts")
        tables = [importlib.import_module(path + ".global_state") for path in paths]
        print([table.reverse_preprocessor_aliases["canny"] for table in tables])
    """
    assert ran(webui, code) == "['canny', 'canny', 'canny']"


def test_names_that_nobody_asks_us_for_stay_unknown(webui: Path) -> None:
    code = """
        from importlib.util import find_spec
        names = ["scripts.external_codes", "extensions.other", "annotator", "lib_controlnet", "internal"]
        print([name for name in names if find_spec(name)])
    """
    assert ran(webui, code) == "[]"


def test_forges_name_is_answered_on_forge_only(webui: Path) -> None:
    (webui / "modules_forge").mkdir()
    code = """
        from lib_controlnet import external_code, global_state
        print(external_code.ControlNetUnit.__module__, global_state.get_preprocessor("canny").name)
    """
    assert ran(webui, code) == "controlstack.unit canny"


def test_forges_builtin_keeps_its_name(webui: Path) -> None:
    """Forge puts the roots of all extensions on `sys.path` for good."""
    builtin = webui / "extensions-builtin" / "sd_forge_controlnet" / "lib_controlnet"
    builtin.mkdir(parents=True)
    (builtin / "external_code.py").write_text("whose = 'theirs'")
    (webui / "modules_forge").mkdir()
    for ours_first in (True, False):
        roots = [f"extensions/{FOLDER}", "extensions-builtin/sd_forge_controlnet"][:: 1 if ours_first else -1]
        code = (
            f"import sys; sys.path += {roots}\nfrom lib_controlnet import external_code as e; print(e.whose)"
        )
        assert ran(webui, code) == "theirs"


@pytest.mark.parametrize("name", ["sd-webui-controlnet", "a-controlnet", "zz-controlnet"])
def test_beside_the_incumbent_nothing_is_answered(webui: Path, name: str) -> None:
    """Not even to a caller that loads before it: it would find our module where its own should be."""
    incumbent(webui, name)
    code = f"""
        import sys
        try:
            import scripts.external_code
        except ImportError:
            print("unknown")
        sys.path.insert(0, "extensions/{name}")
        runpy.run_path("extensions/{name}/scripts/controlnet.py")
        print(sys.modules["scripts.external_code"].whose)
    """
    assert ran(webui, code) == "unknown\ntheirs"


def test_what_lies_on_disk_keeps_its_name(webui: Path) -> None:
    """Another extension's `scripts/external_code.py`, on the path while that extension loads."""
    scripts = webui / "extensions" / "other" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "external_code.py").write_text("whose = 'other'")
    code = """
        import sys
        sys.path.insert(0, "extensions/other")
        import scripts.external_code
        print(scripts.external_code.whose)
    """
    assert ran(webui, code) == "other"


def test_a_package_that_comes_to_lie_on_the_path_later_is_found(webui: Path) -> None:
    """With its data elsewhere a host has no `extensions` on its path until somebody adds it."""
    (webui / "elsewhere" / "extensions" / "late").mkdir(parents=True)
    (webui / "elsewhere/extensions/late/there.py").touch()
    code = """
        import os, sys
        from pathlib import Path
        from types import ModuleType
        import modules.extensions
        os.chdir("scripts")
        importlib.import_module("extensions.sd-webui-controlnet.scripts.external_code")
        sys.path.append(str(Path("..", "elsewhere").resolve()))
        importlib.invalidate_caches()
        print(importlib.import_module("extensions.late.there").__name__)
    """
    assert ran(webui, code) == "extensions.late.there"
