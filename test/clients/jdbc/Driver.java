import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;

/**
 * pgjdbc's statements, run at one address; prints a JSON line for each case. The arguments are as those of drivers.py:
 * URL FIRST_DAY, URL hold STATEMENT, or URL live CHANNEL.
 */
public class Driver {
  private static final String WHERE = "symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '%s' and ts < '%s'";
  private static final String TEXT =
      "select ts, close, volume from ohlcv where symbol = ? and timeframe = ? and ts >= ? and ts < ? order by ts";
  private static final int ROUNDS = 5;
  private static final long BEFORE = 700;
  private static final int HEARD = 2;
  private static final int QUIET = 1500;

  private static LocalDate day;

  public static void main(String[] args) throws Exception {
    String url = args[0].replace("postgresql://", "jdbc:postgresql://").replaceFirst("//[^@/]*@", "//");
    String login = args[0].replaceFirst("^[^/]*//", "").replaceFirst("@.*", "");
    Properties properties = new Properties();
    properties.setProperty("user", login.split(":")[0]);
    properties.setProperty("password", login.contains(":") ? login.split(":")[1] : "");
    properties.setProperty("sslmode", "disable");
    if (args[1].equals("hold")) {
      hold(url, properties, args[2]);
      return;
    }
    if (args[1].equals("live")) {
      live(url, properties, args[2]);
      return;
    }
    day = LocalDate.parse(args[1]);
    for (String mode : new String[] {"extended", "simple", "extendedForPrepared"}) {
      properties.setProperty("preferQueryMode", mode);
      try (Connection conn = DriverManager.getConnection(url, properties)) {
        cases(mode, conn);
      }
    }
  }

  private static OffsetDateTime next() {
    OffsetDateTime at = day.atStartOfDay().atOffset(ZoneOffset.UTC);
    day = day.plusDays(1);
    return at;
  }

  private static String where() {
    OffsetDateTime at = next();
    return String.format(WHERE, at, at.plusHours(2));
  }

  private static void cases(String mode, Connection conn) throws SQLException {
    try (Statement statement = conn.createStatement()) {
      tell(mode + ": literals", rows(statement.executeQuery("select * from ohlcv where " + where() + " order by ts")));
    }
    try (PreparedStatement prepared = conn.prepareStatement(TEXT)) {
      for (int i = 0; i < 7; i++) { // from the fifth on it has a name
        bind(prepared, next());
        tell(mode + ": prepared " + i, rows(prepared.executeQuery()));
      }
    }
    conn.setAutoCommit(false);
    try (PreparedStatement fetched = conn.prepareStatement(TEXT)) {
      fetched.setFetchSize(40);
      bind(fetched, next());
      tell(mode + ": fetch size", rows(fetched.executeQuery()));
    }
    conn.commit();
    try (Statement statement = conn.createStatement()) {
      statement.execute("create temp table kept (ts timestamptz, close float8, volume float8)");
    }
    conn.commit();
    try (PreparedStatement batch = conn.prepareStatement("insert into kept " + TEXT)) {
      bind(batch, next());
      batch.addBatch();
      bind(batch, next());
      batch.addBatch();
      tell(mode + ": batch", String.valueOf(batch.executeBatch().length));
    }
    conn.commit();
    try (Statement statement = conn.createStatement()) {
      tell(mode + ": kept", rows(statement.executeQuery("select count(*), min(ts), max(ts) from kept")));
      statement.execute("drop table kept");
    }
    conn.commit();
    conn.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
    String text = "select count(*), sum(close) from ohlcv where " + where();
    for (int i = 0; i < 5; i++) {
      try (Statement statement = conn.createStatement()) {
        tell(mode + ": serializable", rows(statement.executeQuery(text)));
        break;
      } catch (SQLException error) {
        if (!"40001".equals(error.getSQLState())) {
          throw error;
        }
        conn.rollback();
      }
    }
    conn.commit();
    conn.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
    conn.setAutoCommit(true);
    copy(mode, conn);
    failing(mode + ": syntax error", conn, "selec 1 from ohlcv");
    failing(mode + ": unknown column", conn, "select nothing from ohlcv where " + where());
    try (ResultSet columns = conn.getMetaData().getColumns(null, "public", "ohlcv", null)) {
      StringBuilder names = new StringBuilder();
      while (columns.next()) {
        names.append(columns.getString("COLUMN_NAME")).append(' ').append(columns.getString("TYPE_NAME")).append("; ");
      }
      tell(mode + ": columns", names.toString());
    }
    try (Statement statement = conn.createStatement()) {
      statement.execute("listen word; notify word, 'hello'");
      StringBuilder heard = new StringBuilder();
      for (PGNotification n : conn.unwrap(PGConnection.class).getNotifications(5000)) {
        heard.append(n.getName()).append(' ').append(n.getParameter());
      }
      tell(mode + ": notify", heard.toString());
    }
  }

  private static void copy(String mode, Connection conn) throws SQLException {
    StringWriter out = new StringWriter();
    try {
      conn.unwrap(PGConnection.class).getCopyAPI()
          .copyOut("copy (select ts, close from ohlcv where " + where() + " order by ts) to stdout csv", out);
    } catch (java.io.IOException error) {
      throw new SQLException(error);
    }
    tell(mode + ": copy", out.toString());
  }

  private static void bind(PreparedStatement statement, OffsetDateTime at) throws SQLException {
    statement.setString(1, "sim:BTCUSD");
    statement.setString(2, "1m");
    statement.setObject(3, at);
    statement.setObject(4, at.plusHours(2));
  }

  private static String rows(ResultSet set) throws SQLException {
    StringBuilder out = new StringBuilder();
    ResultSetMetaData meta = set.getMetaData();
    for (int i = 1; i <= meta.getColumnCount(); i++) {
      out.append(meta.getColumnName(i)).append(' ').append(meta.getColumnTypeName(i)).append(", ");
    }
    while (set.next()) {
      out.append('\n');
      for (int i = 1; i <= meta.getColumnCount(); i++) {
        out.append(set.getString(i)).append(", ");
      }
    }
    set.close();
    return out.toString();
  }

  private static void failing(String name, Connection conn, String sql) {
    try (Statement statement = conn.createStatement()) {
      statement.execute(sql);
      tell(name, "no error");
    } catch (SQLException error) {
      tell(name, error.getSQLState() + " " + error.getMessage());
    }
  }

  private static void hold(String url, Properties properties, String sql) throws Exception {
    try (Connection conn = DriverManager.getConnection(url, properties); Statement statement = conn.createStatement()) {
      for (int i = 0; i < ROUNDS; i++) {
        canceled("cancel", statement, sql);
      }
      statement.setQueryTimeout(1);
      for (int i = 0; i < ROUNDS; i++) {
        ended("query timeout", statement, sql, System.nanoTime() + 1_000_000_000L);
      }
      statement.setQueryTimeout(0);
      conn.setAutoCommit(false);
      canceled("cancel in a block", statement, sql);
      ended("the block has failed", statement, "select 1", System.nanoTime());
      conn.rollback();
      conn.setAutoCommit(true);
      statement.execute("set statement_timeout = 700");
      for (int i = 0; i < ROUNDS; i++) {
        ended("statement_timeout", statement, sql, System.nanoTime() + 700_000_000L);
      }
      tell("and on", rows(statement.executeQuery("select 1")));
    }
  }

  private static void live(String url, Properties properties, String channel) throws SQLException {
    try (Connection conn = DriverManager.getConnection(url, properties); Statement statement = conn.createStatement()) {
      PGConnection own = conn.unwrap(PGConnection.class);
      conn.setAutoCommit(false);
      statement.execute("listen " + own.escapeIdentifier(channel));
      conn.commit();
      conn.setAutoCommit(true);
      for (int heard = 0; heard < HEARD; ) {
        for (PGNotification n : own.getNotifications(60_000)) {
          System.out.printf("{\"case\": \"heard\", \"answer\": [%s, %s]}%n", quoted(n.getName()), quoted(n.getParameter()));
          heard++;
        }
      }
      statement.execute("unlisten *");
      own.getNotifications();
      PGNotification[] after = own.getNotifications(QUIET);
      System.out.printf("{\"case\": \"after UNLISTEN\", \"answer\": %d}%n", after == null ? 0 : after.length);
    }
  }

  private static void canceled(String name, Statement statement, String sql) throws InterruptedException {
    long[] at = {0};
    Thread other = new Thread(() -> {
      try {
        Thread.sleep(BEFORE);
        at[0] = System.nanoTime();
        statement.cancel();
      } catch (SQLException | InterruptedException error) {
        throw new IllegalStateException(error);
      }
    });
    other.start();
    String answer = answer(statement, sql);
    long now = System.nanoTime();
    other.join();
    say(name, answer, (now - at[0]) / 1e6);
  }

  private static void ended(String name, Statement statement, String sql, long at) {
    String answer = answer(statement, sql);
    say(name, answer, (System.nanoTime() - at) / 1e6);
  }

  private static String answer(Statement statement, String sql) {
    try {
      statement.execute(sql);
      return "no error";
    } catch (SQLException error) {
      return error.getSQLState() + " " + error.getMessage();
    }
  }

  private static void say(String name, String answer, double ms) {
    System.out.printf("{\"case\": %s, \"answer\": %s, \"ms\": %.1f}%n", quoted(name), quoted(answer), ms);
  }

  private static void tell(String name, String answer) {
    System.out.printf("{\"case\": %s, \"answer\": %s}%n", quoted(name), quoted(answer));
  }

  private static String quoted(String text) {
    return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n") + '"';
  }
}
