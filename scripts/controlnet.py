"""The always-on script: wires the host's hooks to the extension and decides nothing."""

import sys
from pathlib import Path

from modules import script_callbacks, scripts

PACKAGES = str(Path(scripts.basedir()) / "lib_controlnet")
if PACKAGES not in sys.path:
    sys.path.append(PACKAGES)

from controlstack import hosts  # noqa: E402
from controlstack.faces import api, ui  # noqa: E402

HOST = hosts.current()
script_callbacks.on_app_started(lambda _page, app: api.register(app, HOST))


class Script(scripts.Script):
    """ControlNet, in txt2img and img2img."""

    def title(self):
        return "ControlNet"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return ui.slots()

    def process(self, p, *units):
        HOST.process(p, units)

    def process_before_every_sampling(self, p, *units, x, **kwargs):
        HOST.before_sampling(p, x)

    def postprocess(self, p, processed, *units):
        HOST.postprocess(p, processed)
