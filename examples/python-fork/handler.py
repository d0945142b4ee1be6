"""Greets whoever the body names."""

import os
import sys

name = sys.stdin.read().strip() or "world"
print(f"Hello, {name}, from Python ({os.environ['Http_Method']} {os.environ['Http_Path']})")
