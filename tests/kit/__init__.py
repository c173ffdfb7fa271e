"""What many tests need, written once; tests and benchmarks import it, and it imports no test.

| module | offers |
|---|---|
| `waiting` | `until`: wait for a condition instead of sleeping; `steady`: a value that must not change |
| `builders` | instances, links and marks with sensible defaults |
| `natives` | clients that know nothing of bridges: `Etcd`, `Kazoo`, `Folder`; the judges of what they did |
| `stock` | the records that stock clients write, byte for byte, for every layout |
| `running` | the product as users run it: the daemon as a process, and the commands |
| `proxy` | a TCP proxy that damages connections: silence, resets, delay, thin pipes |
| `disks` | tiny file systems that run full or refuse |
"""
