"""Stand-in for pydicom-seg: the calls that monailabel 0.8.5 makes, written on highdicom."""

from pydicom_seg import template
from pydicom_seg.reader import MultiClassReader, MultiClassResult
from pydicom_seg.writer import MultiClassWriter

__all__ = ["MultiClassReader", "MultiClassResult", "MultiClassWriter", "template"]
__version__ = "0.4.1.post1"
