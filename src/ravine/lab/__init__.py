"""Many runs: measurements that train more than once."""
