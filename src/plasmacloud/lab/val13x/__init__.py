"""Where VAL13 stops: partitions, frozen leaders, writes during the kill, standbys, poolers and split brain."""
