package com.acme;

/** A service whose answer says which of its providers gave it. */
public interface Pay {
  String port();
}
