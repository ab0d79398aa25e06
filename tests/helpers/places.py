"""Where the real networks and photographs are, and what the small networks are called."""

import os
from pathlib import Path

from tools import ROOT

REAL = Path(os.environ.get("XCNN_REAL", ROOT.parent / "shared/real"))
SMALL = ["vgg_s", "resnet_s", "googlenet_s", "allconv_s"]
