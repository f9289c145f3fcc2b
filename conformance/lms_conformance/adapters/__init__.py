"""The family DOR: an engine's own contract, for anybody's adapter, driven through the engine's own classes on the CPU.

One folder an interface: `drive` calls an adapter as the engine does, `rules_*` are its properties, `reference` is a
small adapter that keeps them, `broken` the adapters that must be caught. Nothing here is imported with the kit.
"""
