"""What things cost, measured as ratios against a peer in the same run: ``python -m bench --list``."""
