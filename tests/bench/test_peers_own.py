"""A peer of one's own is one file, and one that is none is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from hograd_bench import peers

OWN = """
import os
from hograd_bench.peers import Peer, Prepared
import torch

PEER = Peer("mine", distribution="torch", home="here")


@PEER.method("hvp", "mine.hvp(f, x, v)", note="as it is")
def hvp(task):
    def call():
        (g,) = torch.autograd.grad(task.f(x := task.x.clone().requires_grad_()), x, create_graph=True)
        return torch.autograd.grad(g, x, task.v)[0]

    return Prepared(call, task.value)


@PEER.method("hvp", "mine.die()", variant="dying")
def dying(task):
    return Prepared(lambda: os.kill(os.getpid(), 11), task.value)
"""


@pytest.mark.slow
def test_a_peer_is_one_file_and_is_found_in_the_rows_and_on_the_page(tmp_path):
    own, results = tmp_path / "own", tmp_path / "results"
    own.mkdir()
    (own / "mine.py").write_text(OWN, encoding="utf-8")

    def hograd(*arguments, **variables):
        ran = subprocess.run(
            [sys.executable, "-m", "hograd_bench", *arguments, "--results", str(results)],
            capture_output=True, text=True, env={**os.environ, **variables}, timeout=600, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr + ran.stdout
        return ran.stdout

    cell = "derivative_vector_product/{}/sin_chain/n=8,order=2,depth=2,batch=1/float32/cpu/t1/eager"
    chosen = [part for m in ("mine_dying", "mine", "double_backward") for part in ("--cell", cell.format(m))]
    rows = json.loads(hograd("run", *chosen, "--json", "--isolate", "never", **{peers.FOLDERS: str(own)}))
    assert {r["method"]: r["status"] for r in rows} == {"mine_dying": "crashed", "mine": "ok", "double_backward": "ok"}
    assert Counter("seconds_min" in r["metrics"] for r in rows)[True] == 2
    # Readers have what there is to know from the run: the file is not theirs.
    hograd("peers", "--markdown", str(tmp_path / "peers.md"))
    page = (tmp_path / "peers.md").read_text(encoding="utf-8")
    assert "| mine | mine.hvp(f, x, v) |" in page
    assert "| mine | derivative\\_vector\\_product | mine.die() | crashed |" in page


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("nothing.py", "", "declares no PEER"),
        ("again.py", OWN.replace('"mine"', '"jax"'), "'jax' is declared already"),
        ("taken.py", OWN.replace('"mine"', '"double_backward"'), "declared twice"),
    ],
)
def test_a_file_that_is_no_peer_is_refused(name, text, says, tmp_path, monkeypatch):
    (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv(peers.FOLDERS, str(tmp_path))
    with pytest.raises(ValueError, match=says):
        peers.peers.__wrapped__()
