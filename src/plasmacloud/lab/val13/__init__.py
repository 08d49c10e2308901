"""VAL13: the validation of leader election's failover, exactly as it is specified (names, ports, timing, evidence)."""
