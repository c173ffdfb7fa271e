"""Who of several members writes which shard of a destination (ADR 41): decisions alone, without I/O."""
