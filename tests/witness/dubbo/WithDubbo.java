package com.acme;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;
import org.apache.dubbo.rpc.RpcContext;

/**
 * A program that uses Dubbo as its documentation shows: `WithDubbo HOST:PORT call PORT...`.
 *
 * It has a provider at each port, which it does not register, for Dubbo announces no loopback address. It calls `Pay`
 * by what the ZooKeeper at that address says, and says how many calls each port answered, and which failed, again and
 * again, a line of JSON each. It ends with its standard input.
 */
public class WithDubbo {
  static final long TURN = 250; // milliseconds in which calls are counted
  static final int TIMEOUT = 30_000; // milliseconds that a call may take: a slow machine is no failure
  static final long PAUSE = 2; // milliseconds between two calls

  public static void main(String[] args) throws Exception {
    ApplicationConfig application = new ApplicationConfig("witness");
    application.setQosEnable(false);
    ReferenceConfig<Pay> reference = reference();
    DubboBootstrap dubbo = DubboBootstrap.getInstance();
    dubbo.application(application).registry(new RegistryConfig("zookeeper://" + args[0])).reference(reference);
    List<ProtocolConfig> protocols = new ArrayList<>();
    for (int index = 2; index < args.length; index++) protocols.add(at(args[index]));
    dubbo.service(service(protocols)).start();
    Thread calls = new Thread(() -> call(reference.get()));
    calls.setDaemon(true);
    calls.start();
    while (System.in.read() >= 0) {}
    Runtime.getRuntime().halt(0);
  }

  static ServiceConfig<Pay> service(List<ProtocolConfig> protocols) {
    ServiceConfig<Pay> service = new ServiceConfig<>();
    service.setRegister(false);
    service.setProtocols(protocols);
    service.setInterface(Pay.class);
    service.setRef(() -> String.valueOf(RpcContext.getContext().getLocalPort()));
    service.setScope("remote");
    return service;
  }

  static ProtocolConfig at(String port) {
    ProtocolConfig protocol = new ProtocolConfig("dubbo", Integer.parseInt(port));
    protocol.setId("dubbo" + port);
    return protocol;
  }

  static ReferenceConfig<Pay> reference() {
    ReferenceConfig<Pay> reference = new ReferenceConfig<>();
    reference.setInterface(Pay.class);
    reference.setCheck(false);
    reference.setScope("remote");
    reference.setRetries(0);
    reference.setTimeout(TIMEOUT);
    return reference;
  }

  static void call(Pay pay) {
    while (true) {
      Map<String, Integer> answered = new TreeMap<>();
      Map<String, Integer> failed = new TreeMap<>();
      long end = System.currentTimeMillis() + TURN;
      while (System.currentTimeMillis() < end) {
        try {
          answered.merge(pay.port(), 1, Integer::sum);
        } catch (RuntimeException error) {
          failed.merge(error.toString().split("\n")[0].replace('"', '\'').replace('\\', '/'), 1, Integer::sum);
        }
        sleep(PAUSE);
      }
      say("found", answered);
      if (!failed.isEmpty()) say("failed", failed);
    }
  }

  static void sleep(long milliseconds) {
    try {
      Thread.sleep(milliseconds);
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
    }
  }

  static void say(String kind, Map<String, Integer> counts) {
    List<String> pairs = new ArrayList<>();
    counts.forEach((key, count) -> pairs.add("\"" + key + "\": " + count));
    System.out.println("[\"" + kind + "\", {" + String.join(", ", pairs) + "}]");
    System.out.flush();
  }
}
