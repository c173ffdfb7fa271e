"""The daemon killed and stopped by signals while changes flow from one real etcd to another."""
