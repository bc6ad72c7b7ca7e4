package troika.train.engine;

import java.lang.reflect.InvocationHandler;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.util.ArrayList;
import java.util.IdentityHashMap;
import java.util.List;
import org.jspecify.annotations.Nullable;
import troika.comm.Communicator;
import troika.tensor.Device;
import troika.tensor.Kernels;
import troika.tensor.Memory;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// A rank's device and communicators, wrapped: notes what is called, in words, and which memory it is given.
final class Recording {
    /// One call as it was seen: the lane of its stream, the method's name, its arguments.
    record Seen(String lane, String call) {}

    private final List<Seen> seen = new ArrayList<>();
    private final List<String> foreign = new ArrayList<>();
    private final List<Memory> arenas = new ArrayList<>();
    private final IdentityHashMap<Stream, String> lanes = new IdentityHashMap<>();
    private final Device target;
    private final Device device;
    private final boolean real;

    /// @param real false: kernels and collectives are noted and nothing happens
    Recording(Device device, boolean real) {
        this.target = device;
        this.real = real;
        Kernels kernels = wrap(
                Kernels.class, device.kernels(), (target, method, arguments) -> launch(target, method, "", arguments));
        this.device = wrap(Device.class, device, (target, method, arguments) -> switch (method.getName()) {
            case "kernels" -> kernels;
            case "allocate", "allocateHost" -> {
                Memory memory = (Memory) call(target, method, arguments);
                arenas.add(memory);
                yield memory;
            }
            case "stream" -> {
                Stream stream = (Stream) call(target, method, arguments);
                String name = (String) arguments[0];
                lanes.put(stream, name.substring(0, name.indexOf(' ')));
                yield stream;
            }
            default -> call(target, method, arguments);
        });
    }

    /// The device that is wrapped.
    Device target() {
        return target;
    }

    Device device() {
        return device;
    }

    /// Wraps this rank's end of a group.
    ///
    /// @param ranks of the group, which are told with what it is called for
    Communicator communicator(Communicator communicator, List<Integer> ranks) {
        return wrap(
                Communicator.class,
                communicator,
                (target, method, arguments) -> arguments.length > 0 && arguments[0] instanceof Stream
                        ? launch(target, method, ranks.toString(), arguments)
                        : call(target, method, arguments));
    }

    /// All calls of kernels and collectives so far, in the order in which they were issued.
    List<Seen> seen() {
        return List.copyOf(seen);
    }

    void clear() {
        seen.clear();
    }

    /// The device arena and the host arena, in the order in which they were taken.
    List<Memory> arenas() {
        return List.copyOf(arenas);
    }

    /// What was given to a kernel or collective and does not lie in this rank's arenas.
    List<String> foreign() {
        return List.copyOf(foreign);
    }

    /// An argument in words.
    static String word(@Nullable Object argument) {
        return argument instanceof Tensor tensor
                ? tensor.dtype() + "" + tensor.shape() + "@" + tensor.address()
                : String.valueOf(argument);
    }

    private @Nullable Object launch(Object target, Method method, String group, Object[] arguments) throws Throwable {
        StringBuilder call = new StringBuilder(method.getName()).append(group);
        for (int i = 1; i < arguments.length; i++) {
            call.append(' ').append(word(arguments[i]));
            if (arguments[i] instanceof Tensor tensor && !own(tensor)) {
                foreign.add(method.getName() + " " + word(tensor));
            }
        }
        seen.add(new Seen(String.valueOf(lanes.get((Stream) arguments[0])), call.toString()));
        return real ? call(target, method, arguments) : null;
    }

    private boolean own(Tensor tensor) {
        long end = tensor.address() + tensor.bytes();
        return arenas.stream()
                .anyMatch(arena -> tensor.address() >= arena.address() && end <= arena.address() + arena.bytes());
    }

    interface Handler {
        @Nullable
        Object call(Object target, Method method, Object[] arguments) throws Throwable;
    }

    static <T> T wrap(Class<T> type, T target, Handler handler) {
        InvocationHandler invocation =
                (_, method, arguments) -> handler.call(target, method, arguments == null ? new Object[0] : arguments);
        return type.cast(Proxy.newProxyInstance(type.getClassLoader(), new Class<?>[] {type}, invocation));
    }

    static @Nullable Object call(Object target, Method method, Object[] arguments) throws Throwable {
        try {
            method.setAccessible(true);
            return method.invoke(target, arguments);
        } catch (InvocationTargetException e) {
            throw e.getCause() == null ? e : e.getCause();
        }
    }
}
