"""`layout: istio`: what istiod is to serve, written as ServiceEntries, and as WorkloadEntries beside pods."""
