"""DICOM SEG both ways: `write_seg`, `read_seg` and `seg_summary`."""

from lib.dicom.segheader import SegSummary, seg_summary
from lib.dicom.segread import read_seg
from lib.dicom.segwrite import MAX_TEXT, SegOrigin, write_seg

__all__ = ["MAX_TEXT", "SegOrigin", "SegSummary", "read_seg", "seg_summary", "write_seg"]
