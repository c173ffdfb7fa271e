"""Several daemons that share the writing of one destination over a consumer group of Kafka (ADR 41)."""
