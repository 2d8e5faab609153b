"""The page on data: a data module of one's own, as printed."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from tests.support.commands import ROOT, cli

PAGE = (ROOT / "docs/data.md").read_text()
TINY = shlex.split(
    "--model.hidden_dim 16 --model.out_dim 8 --model.backbone.name convnet --model.backbone.options '{width: 4}' "
    "--model.optim.optimizer sgd --data.batch_size 8 --trainer.max_epochs 1 --trainer.accelerator cpu"
)


@pytest.mark.process
def test_a_data_module_of_one_s_own_trains_as_the_page_says(tmp_path: Path):
    section = PAGE.partition("\n## A data set of another kind\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (command,) = re.findall(r"^    python cli.py (.*)$", section, re.MULTILINE)
    (tmp_path / "my.py").write_text(code)
    images = torch.randint(0, 256, (40, 5, 64, 64), dtype=torch.uint8)
    torch.save((images, torch.arange(40) % 3 - 1), tmp_path / "spectra.pt")
    said = cli(*shlex.split(command), *TINY, folder=tmp_path)
    assert said.code == 0, said.text
    assert "Finished after 1 epoch" in said.text
