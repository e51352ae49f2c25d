"""Imported last by the server of `tests.processes`: the garbage collector need not look through what every fork shares.

Accelerate calls it before and after each training, which took half a second there.
"""

import gc

gc.collect()
gc.freeze()
