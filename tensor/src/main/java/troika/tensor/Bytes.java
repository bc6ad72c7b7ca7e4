package troika.tensor;

import java.util.Locale;

/// Numbers of bytes in words.
public final class Bytes {
    private Bytes() {}

    /// Such as "1.50 GiB", with so many decimals.
    public static String gib(long bytes, int decimals) {
        return String.format(Locale.ROOT, "%." + decimals + "f GiB", bytes / 0x1p30);
    }

    /// Such as "3.0 MiB", with so many decimals.
    public static String mib(long bytes, int decimals) {
        return String.format(Locale.ROOT, "%." + decimals + "f MiB", bytes / 0x1p20);
    }
}
