"""A WebUI script that one selects: it paints two prompts with seeds of their own in one batch."""

import gradio as gr
from modules import scripts, shared
from modules.processing import Processed, process_images


class TwoPrompts(scripts.Script):
    def title(self):
        return "Two prompts"

    def ui(self, is_img2img):
        return [
            gr.Textbox("a dog", label="Second prompt"),
            gr.Slider(1, 9, value=6, step=1, label="Second seed"),
            gr.Dropdown(["whole", "halves"], value="whole", label="Mode"),
        ]

    def run(self, p, second, seed, mode):
        if mode == "halves":
            p.prompt, p.seed = [p.prompt, second, "one too many"], [p.seed, seed]
        else:
            p.prompt, p.negative_prompt, p.seed = [p.prompt, second], [p.negative_prompt, ""], [p.seed, seed]
        p.batch_size = 2
        made = process_images(p)
        return Processed(p, made.images, made.seed, made.info, infotexts=made.infotexts)


class Restricted(scripts.Script):
    def title(self):
        return "Restricted"

    def show(self, is_img2img):
        return scripts.AlwaysVisible


shared.opts.add_option("secret", shared.OptionInfo("hidden", "A secret", restrict_api=True))
shared.opts.add_option("a_number", shared.OptionInfo(3, "A number"))
