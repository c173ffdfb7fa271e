package servers;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.cloud.netflix.eureka.server.EnableEurekaServer;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.security.config.Customizer;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.core.userdetails.User;
import org.springframework.security.core.userdetails.UserDetailsService;
import org.springframework.security.web.SecurityFilterChain;

@EnableEurekaServer
@SpringBootApplication
public class EurekaServer {
  public static void main(String[] args) { SpringApplication.run(EurekaServer.class, args); }

  /** A password for everybody, as Spring's documentation has it for Eureka; the one that a file has now. */
  @Configuration
  static class Guarded {
    @Bean
    SecurityFilterChain guarded(HttpSecurity http) throws Exception {
      http.csrf(csrf -> csrf.disable());
      http.authorizeHttpRequests(every -> every.anyRequest().authenticated());
      return http.httpBasic(Customizer.withDefaults()).build();
    }

    @Bean
    UserDetailsService users(@Value("${servers.password-file}") String file) {
      return name -> User.withUsername(name).password("{noop}" + read(Path.of(file))).roles("USER").build();
    }

    private static String read(Path file) {
      try {
        return Files.readString(file).strip();
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    }
  }
}
