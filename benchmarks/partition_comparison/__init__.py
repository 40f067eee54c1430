"""Splits of programs over devices beside other splits, and runs of several processes beside one."""
