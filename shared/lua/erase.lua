-- Forget a job that is over: what happened to it, and that it ever was. Returns 1, or 0 if it is not
-- over yet: its row is still to be written from its log.
local jobs, log, ended = unpack(KEYS)
local job = ARGV[1]

if redis.call('ZSCORE', jobs, job) then return 0 end
redis.call('DEL', log, ended)
return 1
