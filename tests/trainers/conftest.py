"""What all tests of the trainers need: libraries that do not phone home."""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
