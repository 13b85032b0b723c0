"""What `make lab` starts, on a computer where its port is taken and no browser is found."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from course_lib import environment


def test_a_port_in_use_and_a_missing_browser_are_told(tmp_path: Path) -> None:
    pytest.importorskip("jupyterlab")
    options = re.search(r"jupyter lab (.*?) \$\(ROOT_FLAG\)", (environment.CHECKOUT / "Makefile").read_text())[1]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "jupyterlab", *options.replace("$(PORT)", str(port)).split(), "--allow-root"]
        homes = {name: str(tmp_path) for name in ("HOME", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "PATH")}
        server = subprocess.Popen(command, cwd=tmp_path, env=os.environ | homes, stderr=subprocess.PIPE, text=True)
        late = threading.Timer(240, server.terminate)
        late.start()
        said = ""
        for line in server.stderr:
            said += line
            if "No web browser found" in line:
                break
        late.cancel()
        server.terminate()
        server.communicate(timeout=60)
    assert f"The port {port} is already in use, trying another port." in said
    assert re.search(r"http://127\.0\.0\.1:\d+/lab\?token=\w+", said) and "No web browser found" in said
