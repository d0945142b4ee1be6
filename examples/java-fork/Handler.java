import java.io.IOException;
import java.nio.charset.StandardCharsets;

/** Greets whoever the body names. */
public final class Handler {
    public static void main(String[] arguments) throws IOException {
        String name = new String(System.in.readAllBytes(), StandardCharsets.UTF_8).strip();
        String request = System.getenv("Http_Method") + " " + System.getenv("Http_Path");
        System.out.println("Hello, " + (name.isEmpty() ? "world" : name) + ", from Java (" + request + ")");
    }
}
