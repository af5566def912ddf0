"""wsi-vmamba: whole-slide pathology with a VMamba backbone.

Importing the package is cheap: it loads no torch, opens no file and probes no device.
"""

__version__ = "0.1.0"
