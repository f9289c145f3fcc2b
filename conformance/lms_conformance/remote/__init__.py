"""The servers on loopback that the kit tries `redis`, `s3` and `mooncake` over: one file a harness."""
