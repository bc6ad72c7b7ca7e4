package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/// How the threads of ranks wait for each other, which needs no card.
@Timeout(60)
class RendezvousTest {
    private static final Duration LONG = Duration.ofSeconds(50);

    @Test
    void whatWasDoneBeforeAMeetingIsSeenAfterIt() throws InterruptedException, ExecutionException {
        int ranks = 5;
        int rounds = 2000;
        Meeting meeting = new Meeting(ranks, new Rendezvous(ranks, LONG));
        // Without any synchronization of their own.
        long[][] published = new long[2][ranks];
        try (ExecutorService threads = Executors.newFixedThreadPool(ranks)) {
            List<Future<Long>> sums = new ArrayList<>();
            for (int i = 0; i < ranks; i++) {
                int rank = i;
                sums.add(threads.submit(() -> {
                    long wrong = 0;
                    for (int round = 0; round < rounds; round++) {
                        published[round % 2][rank] = 10L * round + rank;
                        meeting.meet(rank, "round " + round);
                        for (int peer = 0; peer < ranks; peer++) {
                            wrong += published[round % 2][peer] == 10L * round + peer ? 0 : 1;
                        }
                    }
                    return wrong;
                }));
            }
            for (Future<Long> sum : sums) {
                assertThat(sum.get()).isZero();
            }
        }
    }

    @Test
    void aMeetingThatStaysStuckNamesWhoIsMissingAndWhere() throws InterruptedException, ExecutionException {
        Meeting meeting = new Meeting(4, new Rendezvous(4, Duration.ofMillis(200)));
        try (ExecutorService threads = Executors.newFixedThreadPool(2)) {
            Future<?> other = threads.submit(() -> assertThatThrownBy(() -> meeting.meet(2, "allGather of F32[7]"))
                    .hasMessageContaining("rank 2 waits in allGather of F32[7] for rank 1, rank 3"));
            assertThatThrownBy(() -> meeting.meet(0, "allGather of F32[7]"))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessageContaining("rank 0 waits in allGather of F32[7] for rank 1, rank 3, which did not come");
            other.get();
        }
    }

    @Test
    void anAbortWakesAllWithTheFirstCause() throws InterruptedException, ExecutionException {
        Rendezvous rendezvous = new Rendezvous(3, LONG);
        Meeting meeting = new Meeting(3, rendezvous);
        CountDownLatch started = new CountDownLatch(2);
        IllegalArgumentException first = new IllegalArgumentException("first");
        try (ExecutorService threads = Executors.newFixedThreadPool(2)) {
            List<Future<?>> waiting = new ArrayList<>();
            for (int i = 0; i < 2; i++) {
                int rank = i;
                waiting.add(threads.submit(() -> {
                    started.countDown();
                    meeting.meet(rank, "allReduce");
                }));
            }
            started.await();
            rendezvous.abort(first);
            rendezvous.abort(new IllegalArgumentException("second"));
            for (Future<?> future : waiting) {
                assertThatThrownBy(future::get)
                        .cause()
                        .hasMessage("another rank failed")
                        .cause()
                        .isSameAs(first);
            }
        }
        assertThatThrownBy(() -> meeting.meet(2, "allReduce")).cause().isSameAs(first);
        assertThatThrownBy(rendezvous::check).cause().isSameAs(first);
    }

    @Test
    void anInterruptIsKeptAndDoesNotEndAWait() throws InterruptedException, ExecutionException {
        Rendezvous rendezvous = new Rendezvous(2, LONG);
        AtomicBoolean reached = new AtomicBoolean();
        try (ExecutorService threads = Executors.newFixedThreadPool(1)) {
            Future<Boolean> waiting = threads.submit(() -> {
                Thread.currentThread().interrupt();
                rendezvous.await(reached::get, () -> "never");
                return Thread.currentThread().isInterrupted();
            });
            Thread.sleep(50);
            assertThat(waiting.isDone()).isFalse();
            rendezvous.change(() -> reached.set(true));
            assertThat(waiting.get()).isTrue();
        }
    }
}
