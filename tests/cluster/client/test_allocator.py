"""Memory that was freed is returned to the system."""

import subprocess
import sys

import pytest

# Small pieces, of which every other one stays: malloc returns only what is last.
CODE = """
import psutil
from skdistmlp.cluster.client.allocator import return_freed_memory
rss = psutil.Process().memory_info
pieces = [(bytearray(100_000), bytearray(1000)) for _ in range(1000)]
kept = [small for _, small in pieces]
del pieces
before = rss().rss
return_freed_memory()
print(before - rss().rss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc has malloc_trim")
def test_freed_memory_is_returned():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False
    )
    assert int(done.stdout) > 50_000_000, done
