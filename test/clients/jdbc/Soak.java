import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.OffsetDateTime;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import org.postgresql.util.PSQLException;

/** Sessions of pgjdbc that do what `make soak` orders, as pysoak.py has it. */
public class Soak {
  private static final ScheduledExecutorService LATER = Executors.newScheduledThreadPool(4, Soak::daemon);

  private final int number;
  private final ExecutorService orders = Executors.newSingleThreadExecutor(Soak::daemon);
  private Connection conn;

  private Soak(int number) {
    this.number = number;
  }

  private static Thread daemon(Runnable run) {
    Thread thread = new Thread(run);
    thread.setDaemon(true);
    return thread;
  }

  public static void main(String[] args) throws Exception {
    Map<String, Soak> sessions = new HashMap<>();
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      String[] order = line.split("\t", -1);
      Soak session = sessions.computeIfAbsent(order[0], n -> new Soak(Integer.parseInt(n)));
      session.orders.submit(() -> session.obey(order));
    }
  }

  private void obey(String[] order) {
    String answer;
    try {
      answer = "\"rows\": " + rows(order);
    } catch (SQLException error) {
      boolean server = error instanceof PSQLException && ((PSQLException) error).getServerErrorMessage() != null;
      answer = "\"code\": " + quoted(server ? error.getSQLState() : "") + ", \"message\": " + quoted(String.valueOf(error.getMessage()));
    } catch (RuntimeException error) {
      answer = "\"code\": \"\", \"message\": " + quoted("unexpected " + error);
    }
    synchronized (LATER) {
      System.out.println("{\"session\": " + number + ", " + answer + "}");
      System.out.flush();
    }
  }

  private String rows(String[] order) throws SQLException {
    switch (order[1]) {
      case "connect":
        Properties properties = new Properties();
        properties.setProperty("user", order[4]);
        properties.setProperty("sslmode", "disable");
        properties.setProperty("ApplicationName", order[6]);
        properties.setProperty("connectTimeout", "100");
        properties.setProperty("preferQueryMode", new String[] {"extended", "simple", "extendedForPrepared"}[number / 10 % 3]);
        properties.setProperty("prepareThreshold", number / 10 % 2 == 0 ? "1" : "5");
        conn = DriverManager.getConnection("jdbc:postgresql://" + order[2] + ":" + order[3] + "/" + order[5], properties);
        return "[]";
      case "ask":
        return ask(Integer.parseInt(order[2]), order[3], Arrays.copyOfRange(order, 4, order.length));
      default:
        if (conn != null) {
          conn.close();
        }
        return "[]";
    }
  }

  private String ask(int after, String sql, String[] arguments) throws SQLException {
    try (Statement statement = arguments.length > 0 ? conn.prepareStatement(sql.replaceAll("\\$\\d", "?")) : conn.createStatement()) {
      ScheduledFuture<?> canceling = after > 0 ? LATER.schedule(() -> cancel(statement), after, TimeUnit.MILLISECONDS) : null;
      try {
        boolean set;
        if (statement instanceof PreparedStatement) {
          PreparedStatement prepared = (PreparedStatement) statement;
          for (int i = 0; i < arguments.length; i++) {
            if (i == 3 || i == 4) {
              prepared.setObject(i + 1, OffsetDateTime.parse(arguments[i]));
            } else {
              prepared.setString(i + 1, arguments[i]);
            }
          }
          set = prepared.execute();
        } else {
          set = statement.execute(sql);
        }
        return set ? read(statement.getResultSet()) : "[]";
      } finally {
        if (canceling != null) {
          canceling.cancel(false);
        }
      }
    }
  }

  private static void cancel(Statement statement) {
    try {
      statement.cancel();
    } catch (SQLException error) {
      // its network may be down
    }
  }

  private static String read(ResultSet set) throws SQLException {
    StringBuilder out = new StringBuilder("[");
    while (set.next()) {
      out.append(out.length() > 1 ? ", [" : "[").append(quoted(set.getString(1))).append(", ").append(set.getLong(2));
      for (int i = 3; i <= 7; i++) {
        out.append(", ").append(set.getDouble(i));
      }
      out.append(']');
    }
    return out.append(']').toString();
  }

  private static String quoted(String text) {
    StringBuilder out = new StringBuilder("\"");
    for (char c : text.toCharArray()) {
      out.append(c == '"' || c == '\\' ? "\\" + c : c < ' ' ? " " : String.valueOf(c));
    }
    return out.append('"').toString();
  }
}
