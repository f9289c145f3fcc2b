"""The lm:// wire: headers as pure functions between bytes and small records. No sockets, no backend, no torch.

`plain` is LMCache's protocol (0.3.3 to 0.5.6); `extension` is what this project's client and server speak with each
other after a greeting. Both are described in docs/wire.md.
"""
