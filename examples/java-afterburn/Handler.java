import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.ByteArrayOutputStream;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;

/**
 * Greets whoever the body names, and counts its calls: it is one process for all of them.
 *
 * <p>What it says to people goes to System.err: stdout is for answers.
 */
public final class Handler {
    public static void main(String[] arguments) throws IOException {
        InputStream requests = new BufferedInputStream(new FileInputStream(FileDescriptor.in));
        OutputStream answers = new BufferedOutputStream(new FileOutputStream(FileDescriptor.out));
        long calls = 0;
        for (String line = line(requests); line != null; line = line(requests)) {
            String[] words = line.split(" ");
            int length = 0;
            for (String header = line(requests); !header.isEmpty(); header = line(requests)) {
                if (header.regionMatches(true, 0, "content-length:", 0, 15)) {
                    length = Integer.parseInt(header.substring(15).strip());
                }
            }
            String name = new String(requests.readNBytes(length), StandardCharsets.UTF_8).strip();
            String text = "Hello, " + (name.isEmpty() ? "world" : name) + ", from Java, call " + ++calls
                    + " (" + words[0] + " " + words[1] + ")\n";
            byte[] body = text.getBytes(StandardCharsets.UTF_8);
            String head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: "
                    + body.length + "\r\n\r\n";
            answers.write(head.getBytes(StandardCharsets.ISO_8859_1));
            answers.write(body);
            answers.flush();
        }
    }

    /** A line without its end; null when there are no more. */
    private static String line(InputStream from) throws IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        for (int next = from.read(); next != '\n'; next = from.read()) {
            if (next < 0) {
                return null;
            }
            line.write(next);
        }
        return line.toString(StandardCharsets.ISO_8859_1).stripTrailing();
    }
}
