"""Unpacks the agent's program in its container: unpack.py ARCHIVE FOLDER VERSION.

VERSION is the charm's Python, such as 3.12: the packages have compiled parts. Ends with 3 where
this Python is another one, with 4 where the packages do not work with it; the reason is printed.
It is read by whatever Python the image has.
"""

import os
import shutil
import sys
import tarfile

archive, folder, wanted = sys.argv[1:4]
found = "%d.%d" % sys.version_info[:2]
if found != wanted:
    print(found)
    sys.exit(3)
new = folder + ".new"
shutil.rmtree(new, ignore_errors=True)
with tarfile.open(archive) as packed:
    if hasattr(tarfile, "data_filter"):
        packed.extractall(new, filter="data")
    else:
        packed.extractall(new)
shutil.rmtree(folder, ignore_errors=True)
os.rename(new, folder)
os.unlink(archive)
# Python noted at its start that there is no such folder.
sys.path_importer_cache.pop(folder, None)
sys.path.insert(0, folder)
try:
    import cryptography.hazmat.primitives.ciphers.aead
    import google_crc32c
    import pymysql

    if google_crc32c.implementation != "c":
        raise ImportError("google_crc32c has no compiled part for it")
except ImportError as error:
    print(error)
    sys.exit(4)
