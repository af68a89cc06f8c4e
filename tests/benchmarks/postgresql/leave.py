#!/usr/bin/env python3
"""Leave the machine so many MiB: lock all other memory until stdin ends."""

import ctypes
import mmap
import re
import sys
from pathlib import Path

available = re.search(
    r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE
)
size = (int(available[1]) // 1024 - int(sys.argv[1])) << 20
if size > 0:
    memory = mmap.mmap(-1, size)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlock(ctypes.byref(ctypes.c_char.from_buffer(memory)), ctypes.c_size_t(size)):
        sys.exit(f"mlock: error {ctypes.get_errno()}; it needs root")
print("locked", flush=True)
sys.stdin.read()
