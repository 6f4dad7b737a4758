-- Somebody follows these jobs: each that has a lease gets a new one, on the server's clock.
local attended = KEYS[1]
local time = redis.call('TIME')
local lease = time[1] + time[2] / 1000000 + ARGV[1]

for number = 2, #ARGV do redis.call('ZADD', attended, 'XX', lease, ARGV[number]) end
