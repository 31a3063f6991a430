"""The always-on script: wires the host's hooks to the extension and decides nothing."""

import sys
from pathlib import Path

from modules import script_callbacks, scripts

PACKAGES = str(Path(scripts.basedir()) / "lib_controlnet")
if PACKAGES not in sys.path:
    sys.path.append(PACKAGES)

from controlstack import hosts  # noqa: E402
from controlstack.faces import api, infotext, remote, settings, ui, xyz  # noqa: E402
from controlstack.hosts import neighbours  # noqa: E402
from controlstack.log import log  # noqa: E402

HOST = hosts.current()
RIVAL = neighbours.rival()
if RIVAL is None:
    settings.set_log_level(HOST)
    script_callbacks.on_app_started(lambda _page, app: api.register(app, HOST))
    script_callbacks.on_ui_settings(settings.register)
    script_callbacks.on_after_component(ui.remember)
    script_callbacks.on_before_ui(lambda: xyz.register(scripts.scripts_data, HOST))
    script_callbacks.on_infotext_pasted(lambda _text, params: infotext.paste(params, HOST))


class Script(scripts.Script):
    """ControlNet, in txt2img and img2img."""

    def title(self):
        return HOST.name

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return ui.panel(self, HOST, is_img2img=is_img2img)

    def before_process(self, p, *units):
        HOST.before_process(p, remote.heard(p, units, HOST))

    def process(self, p, *units):
        HOST.process(p, remote.heard(p, units, HOST))

    def process_before_every_sampling(self, p, *units, x, noise, **kwargs):
        HOST.before_sampling(p, x, noise)

    def postprocess_batch_list(self, p, pp, *units, **kwargs):
        HOST.pictures(p, pp.images)

    def postprocess(self, p, processed, *units):
        HOST.postprocess(p, processed)


class Sign(scripts.Script):
    """Does nothing. The client webuiapi knows by this title that ControlNet is here; without it, a call
    without units repeats those of the call before."""

    def title(self):
        return "controlnet m2m"

    def show(self, is_img2img):
        return scripts.AlwaysVisible if RIVAL is None else False

    def ui(self, is_img2img):
        return []


if RIVAL is not None:
    log.warning(neighbours.refusal(RIVAL))

    class Script(scripts.Script):
        """Says on the page why there is nothing else."""

        def title(self):
            return "ControlStack"

        def show(self, is_img2img):
            return scripts.AlwaysVisible

        def ui(self, is_img2img):
            return ui.notice(neighbours.refusal(RIVAL))
