"""Tasks of the evaluation harness on the bundled texts: the .yaml files beside this one, which need no network.

`jaxlm.lm_eval` knows them by itself; the harness's own command does with `--include_path` and this folder.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
