"""Room for memory tiers: one allocation cut into pages, shared by the backends `pinned` and `gpu`.

`pages` hands out pages, `arena` keeps which `chunk` holds which, `recycle` lends buffers that outlive a chunk, `host`
and `copying` are memory and copies of the CPU, `backend` is what both backends have in common. No accelerator here.
"""
