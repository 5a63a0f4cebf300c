"""Folding: an ONNX model in, the same function with fewer operators out, and a report of what happened.

``fold`` is the entry; :mod:`foldserve.folding.report` holds what it reports. Knows onnx-ir and numpy, and no
other part of foldserve than its errors.
"""
